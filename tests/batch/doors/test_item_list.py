"""GET /v1/batch: pages, filters, and their bounds."""

import pytest
from support.gateways.batch_doors import COMPLETIONS, JOBS, PROMPT, code, submit

from gateway.testing import GatewayFor, Live


async def page(live: Live, **query: object) -> tuple[list[str], bool]:
    """The ids of a page, and whether more follow."""
    answer = await live.client.get("/v1/batch", params={k: str(v) for k, v in query.items()})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    ids = [one["id"] for one in found["data"]]
    ends = (ids[0], ids[-1]) if ids else (None, None)
    assert (found["object"], (found["first_id"], found["last_id"])) == ("list", ends)
    return ids, found["has_more"]


async def submitted(live: Live, count: int, **fields: object) -> list[str]:
    urls = [await submit(live, COMPLETIONS, {**PROMPT, **fields}) for _ in range(count)]
    return [url.rpartition("/")[2] for url in reversed(urls)]


async def test_pages_list_each_item_once_while_others_come(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    ids = await submitted(live, 5)
    assert await page(live, limit=2) == (ids[:2], True)
    newer = await submitted(live, 1)
    assert await page(live, limit=2, after=ids[1]) == (ids[2:4], True)
    await live.client.delete(f"{COMPLETIONS}/{ids[3]}")
    assert await page(live, limit=2, after=ids[3]) == (ids[4:], False)
    assert await page(live, after=ids[4]) == ([], False)
    assert await page(live) == (newer + ids, False)


async def test_items_are_listed_by_status_and_model(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    a = await submitted(live, 2, model="a")
    b = await submitted(live, 2, model="b")
    await live.client.delete(f"{COMPLETIONS}/{a[0]}")
    assert await page(live, status="canceled") == (a[:1], False)
    assert await page(live, status="queued") == ([*b, a[1]], False)
    assert await page(live, model="a") == (a, False)
    assert await page(live, model="b", status="queued", limit=1) == (b[:1], True)
    assert await page(live, model="c") == ([], False)
    assert await page(live, status="running") == ([], False)


async def test_listed_item_says_what_it_is_without_its_answer(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    url = await submit(live, JOBS, {"model": "sim", "input": "Hello", "max_tokens": 2})
    await live.client.get(url, params={"wait": 20})
    [listed] = (await live.client.get("/v1/batch")).json()["data"]
    for time in ("created", "finished", "expires_at"):
        assert isinstance(listed.pop(time), int)
    assert listed == {
        "id": url.rpartition("/")[2],
        "status": "completed",
        "model": "sim",
        "priority": 1,
        "type": "job",
        "custom_id": None,
        "error": None,
        "attempt": None,
        "attempts": 1,
        "not_before": None,
        "last_error": None,
    }


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=done", "status"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("after=none", "after"),
        ("order=asc", "order"),
    ],
)
async def test_bad_query_of_a_list_is_refused(
    gateway_for: GatewayFor, query: str, param: str
) -> None:
    live = await gateway_for("batch", workers=[])
    assert code(await live.client.get(f"/v1/batch?{query}")) == (400, param, "invalid_request")
