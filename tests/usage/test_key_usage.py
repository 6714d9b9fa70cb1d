"""GET /monitor/key_usage as scripts of the earlier orchestrator read it: one row for each key."""

import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import httpx
from gateway_plugins.usage.ledger.retention import call_id_at
from gateway_plugins.usage.ledger.row import ABORT, ERROR, SUCCESS, Row, insert
from gateway_plugins.usage.ledger.sums import DAY, sum_some
from support.gateways.capturing import chat
from usage.test_usage import CHAT, HEAD, Badges, ask, first_bytes, over

from gateway import Call, TooManyRequests, hookimpl
from gateway.testing import DONE, GatewayFor, Live, ScriptedConnection, ScriptedWorker

NOON = 1_795_262_400.0
"""Of 21 November 2026, UTC."""

MONITOR = {"authorization": "eve monitor"}


async def page(live: Live, **query: str | int) -> dict[str, Any]:
    answer = await live.client.get("/monitor/key_usage", params=query, headers=MONITOR)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def all_items(live: Live, **query: str | int) -> list[dict[str, Any]]:
    """As usage_chart.py of the orchestrator asks: from the cursor "0" until it comes back."""
    found, cursor = [], "0"
    while True:
        payload = await page(live, **query, cursor=cursor)
        found += payload["items"]
        cursor = str(payload["cursor"])
        if cursor == "0":
            return found


async def the_item(live: Live, **query: str | int) -> dict[str, Any]:
    [item] = await all_items(live, **query)
    return item


def row(number: int, key: str, **changes: Any) -> Row:
    """A call of this key; later than those with smaller numbers."""
    when = changes.pop("time", NOON + number)
    call = Row(
        id=call_id_at(when) + number.to_bytes(10, "big"),
        time=when,
        key=key,
        model="sim",
        worker="w",
        source="realtime",
        outcome=SUCCESS,
        prompt_tokens=3,
        completion_tokens=4,
        cached_tokens=0,
        reasoning_tokens=0,
        counted=0,
    )
    return call._replace(**changes)


async def count(live: Live, rows: Iterable[Row], *, summed: bool) -> None:
    await live.gateway.storage.write(partial(insert, rows=list(rows)))
    if summed:
        await live.gateway.storage.write(sum_some)


async def test_key_usage_has_one_item_for_each_key_and_the_rows_of_our_own_clients(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(Badges, "usage")
    before = time.time()
    used = (await ask(live, max_tokens=5)).json()["usage"]
    await ask(live, badge="ada batch", max_tokens=5)
    payload = await page(live)
    [item] = payload.pop("items")
    assert before <= item.pop("last_ts") <= time.time()
    assert item == {
        "key_id": "ada",
        "bucket": None,
        "request_total": 2,
        "realtime_requests": 1,
        "batch_requests": 1,
        "success_total": 2,
        "error_total": 0,
        "aborted_total": 0,
        "refused_total": 0,
        "prompt_tokens": 2.0 * used["prompt_tokens"],
        "completion_tokens": 10.0,
        "total_tokens": 2.0 * used["prompt_tokens"] + 10,
        "wasted_tokens": 0.0,
        "last_model": "sim",
        "last_source": "batch",
        "last_scope": "batch",
        "last_status": "success",
    }
    assert isinstance(item["total_tokens"], float)
    assert [row["source"] for row in payload.pop("data")] == ["batch", "realtime"]
    assert payload == {"bucket": None, "cursor": "0", "next_cursor": None, "object": "list"}


async def test_key_usage_counts_attempts_apart(gateway_for: GatewayFor) -> None:
    """Fault 7.1, in the books alone; tests/batch has it with items that run."""
    live = await gateway_for(Badges, "usage")
    attempt = row(1, "ada", source="batch", outcome=ERROR, repeated=1)
    for summed in (False, True):
        await count(live, [attempt], summed=summed)
        item = await the_item(live)
        assert (item["request_total"], item["error_total"]) == (0, 0)
        assert (item["total_tokens"], item["wasted_tokens"]) == (0.0, 7.0)
        assert (item["last_status"], item["last_model"], item["last_ts"]) == (None, None, None)
    await count(live, [row(2, "ada", source="batch"), attempt], summed=False)
    item = await the_item(live)
    assert (item["request_total"], item["success_total"], item["batch_requests"]) == (1, 1, 1)
    assert (item["total_tokens"], item["wasted_tokens"]) == (7.0, 7.0)
    assert (item["last_status"], item["last_ts"]) == ("success", NOON + 2)
    own = (await live.client.get("/v1/usage", headers={"authorization": "ada"})).json()
    for [sums] in own["totals"], own["days"]:
        assert (sums["requests"], sums["repeated"], sums["wasted_tokens"]) == (1, 1, 7)


async def test_key_usage_names_the_latest_request_in_whatever_order_they_end(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("usage")
    ends = [(5, SUCCESS), (7, ERROR), (6, ABORT), (3, SUCCESS), (9, ABORT), (8, SUCCESS)]
    said = []
    for number, (when, outcome) in enumerate(ends):
        ended = row(number, "ada", time=NOON + when, outcome=outcome)
        await count(live, [ended], summed=number % 3 != 1)
        item = await the_item(live)
        said.append((item["last_ts"] - NOON, item["last_status"]))
    error, aborted = (7, "error"), (9, "aborted")
    assert said == [(5, "success"), error, error, error, aborted, aborted]


class Refusing:
    """Admits no call with the header `refuse`."""

    @hookimpl
    async def admit(self, call: Call) -> None:
        if call.header("refuse"):
            raise TooManyRequests("not now")


async def test_key_usage_counts_streams_that_are_left_and_calls_that_are_refused(
    gateway_for: GatewayFor,
) -> None:
    """Fault 7.2."""
    live = await gateway_for(Badges, Refusing, "usage")
    headers = {"authorization": "ada", "x-sim-itl": "0.005"}
    body = chat(stream=True, max_tokens=2000, ignore_eos=True)
    async with live.client.stream("POST", CHAT, json=body, headers=headers) as answer:
        await first_bytes(answer.aiter_bytes(), 1000)
    await over(live)
    item = await the_item(live)
    assert (item["request_total"], item["aborted_total"], item["error_total"]) == (1, 1, 0)
    assert item["last_status"] == "aborted"
    assert item["completion_tokens"] > 0
    refused = {"authorization": "ada", "refuse": "yes"}
    assert (await live.client.post(CHAT, json=chat(), headers=refused)).status_code == 429
    item = await the_item(live)
    assert (item["request_total"], item["refused_total"], item["error_total"]) == (2, 1, 1)
    assert item["last_status"] == "error"


async def test_key_usage_has_each_of_many_keys_once_over_its_pages(
    gateway_for: GatewayFor,
) -> None:
    """Fault 7.4: 2,000 keys, of two models and two sources each, seven to a page."""
    live = await gateway_for(Badges, "usage")
    keys = [f"key-{number}" for number in range(2_000)]
    first = [row(n, key, source="batch") for n, key in enumerate(keys)]
    second = [row(n, key, model="other", outcome=ABORT) for n, key in enumerate(keys, 2_000)]
    await count(live, first + second[:1_900], summed=True)
    await count(live, second[1_900:], summed=False)
    items = await all_items(live, limit=7)
    assert [item["key_id"] for item in items] == sorted(keys)
    assert {item["request_total"] for item in items} == {2}
    assert {(item["last_model"], item["last_source"]) for item in items} == {("other", "realtime")}


async def test_key_usage_of_a_day_and_in_total_are_not_mixed(gateway_for: GatewayFor) -> None:
    """Fault 7.4, and the chart's own question: the tokens of each key on each day."""
    live = await gateway_for(Badges, "usage")
    days = {"20261120": NOON - DAY, "20261121": NOON}
    rows = [
        row(n, f"key-{n % 3}", time=when + n, model=f"m{n % 2}")
        for when in days.values()
        for n in range(12)
    ]
    await count(live, rows[:9], summed=True)
    await count(live, rows[9:], summed=False)
    for bucket in days:
        used: Counter[str] = Counter()
        for item in await all_items(live, bucket=bucket, limit=2):
            assert item["bucket"] == bucket
            used[item["key_id"]] += item["total_tokens"]
        assert used == {f"key-{n}": 4 * 7.0 for n in range(3)}
    totals = await all_items(live, limit=500)
    assert [(one["bucket"], one["total_tokens"]) for one in totals] == [(None, 8 * 7.0)] * 3
    assert (await page(live, bucket="20000101"))["items"] == []


async def test_key_usage_lists_keys_of_any_spelling(gateway_for: GatewayFor) -> None:
    """Fault 7.5."""
    live = await gateway_for(Badges, "usage")
    keys = sorted(["a", "a::20261121", "a::b::c", "::", "0", '"', "é ü", "\x7f"])
    rows = [row(n, key) for n, key in enumerate(keys)]
    await count(live, rows[::2], summed=True)
    await count(live, rows[1::2], summed=False)
    for query in ({}, {"bucket": "20261121"}):
        items = await all_items(live, limit=1, **query)
        assert [item["key_id"] for item in items] == keys
        assert {item["bucket"] for item in items} == {query.get("bucket")}


async def test_key_usage_continues_one_list_with_the_cursor_of_this_list(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(Badges, "usage")
    await count(live, [row(n, f"key-{n}") for n in range(3)], summed=True)
    first = await page(live, limit=2)
    keys = await page(live, limit=2, cursor=first["cursor"])
    assert [item["key_id"] for item in keys["items"]] == ["key-2"]
    assert (keys["data"], keys["cursor"], keys["next_cursor"]) == ([], "0", None)
    rows = await page(live, limit=2, cursor=first["next_cursor"])
    assert [row["key"] for row in rows["data"]] == ["key-2"]
    assert (rows["items"], rows["cursor"], rows["next_cursor"]) == ([], "0", None)
    query: dict[str, str | int] = {"cursor": first["cursor"], "bucket": "20261121"}
    wrong = await live.client.get("/monitor/key_usage", params=query, headers=MONITOR)
    assert wrong.status_code == 400


async def test_key_usage_of_days_that_are_kept_no_longer_stays_in_the_totals(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(Badges, "usage")
    old = [row(n, "ada", time=1e9 - n * DAY, model=f"m{n}") for n in range(3)]
    await count(live, old, summed=True)
    [upkeep] = [one.object._upkeep for one in live.gateway.plugins.loaded if one.name == "usage"]
    await upkeep.run_once(NOON)
    assert (await page(live, bucket="20010909"))["items"] == []
    item = await the_item(live)
    assert (item["request_total"], item["last_ts"], item["last_model"]) == (3, 1e9, "m0")


BODY = 'data: {{"choices": [{{"index": 0, "delta": {{"content": "{}"}}}}]}}{}'
LINES = ("\n\n", "\r\n\r\n", "\r\r")


async def test_usage_counts_a_stream_whatever_ends_its_lines_and_cuts_its_characters(
    gateway_for: GatewayFor,
) -> None:
    """Fault 7.6: without usage of the engine, so each event counts."""
    text = "".join(BODY.format(word, end) for end in LINES for word in ("æ", "𝄞"))

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD)
        for byte in text.encode() + DONE:
            await connection.write(bytes([byte]))

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Badges, "usage", workers=[worker.url])
        answer: httpx.Response = await ask(live, stream=True)
    assert answer.text.count("𝄞") == len(LINES)
    assert (await the_item(live))["completion_tokens"] == 2.0 * len(LINES)
