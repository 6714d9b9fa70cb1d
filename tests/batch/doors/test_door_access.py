"""Whom the doors let in, and what each caller sees: faults of section 1, by their numbers."""

import httpx
import pytest
from support.gateways.batch_doors import (
    CHAT,
    COMPLETIONS,
    JOBS,
    MESSAGES,
    PROMPT,
    Badges,
    badge,
    code,
    over,
    submit,
)

from gateway.config import Worker
from gateway.testing import GatewayFor, Live

ADA, BOB, EVE = badge("ada batch"), badge("bob batch"), badge("eve batch admin")
DOORS = [(COMPLETIONS, PROMPT), (CHAT, MESSAGES), (JOBS, {"model": "sim", "input": "Hello"})]

ROUTES = [
    ("POST", COMPLETIONS),
    ("GET", f"{COMPLETIONS}/x"),
    ("DELETE", f"{COMPLETIONS}/x"),
    ("POST", CHAT),
    ("GET", f"{CHAT}/x"),
    ("DELETE", f"{CHAT}/x"),
    ("POST", JOBS),
    ("GET", f"{JOBS}/x"),
    ("DELETE", f"{JOBS}/x"),
    ("GET", "/v1/batch"),
]


async def ids(live: Live, headers: dict[str, str]) -> list[str]:
    page = (await live.client.get("/v1/batch", headers=headers)).json()
    return [one["id"] for one in page["data"]]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_fault_1_4_key_is_asked_for_and_then_its_scope(
    gateway_for: GatewayFor, method: str, path: str
) -> None:
    live = await gateway_for("batch", Badges)
    unknown = await live.client.request(method, path)
    assert code(unknown) == (401, None, "invalid_api_key")
    assert unknown.headers["www-authenticate"] == "Bearer"
    headers = badge("ada realtime eval upload monitor admin")
    assert code(await live.client.request(method, path, headers=headers)) == (
        403,
        None,
        "missing_scope",
    )


@pytest.mark.parametrize(("path", "body"), DOORS)
async def test_fault_1_6_items_of_other_keys_are_not_there(
    gateway_for: GatewayFor, path: str, body: dict[str, object]
) -> None:
    live = await gateway_for("batch", Badges)
    url = await submit(live, path, body, **ADA)
    item_id = url.rpartition("/")[2]
    await over(live, url, **ADA)

    async def asked(url: str, headers: dict[str, str], method: str = "GET") -> httpx.Response:
        return await live.client.request(method, url, headers=headers)

    absent = await asked(f"{path}/none", BOB)
    for answer in (await asked(url, BOB), await asked(url, BOB, "DELETE")):
        assert (answer.status_code, answer.json()) == (404, absent.json())
    assert code(await asked(f"/v1/batch?after={item_id}", BOB)) == (400, "after", "invalid_request")
    assert await ids(live, BOB) == []
    assert await ids(live, ADA) == await ids(live, EVE) == [item_id]
    assert (await asked(url, EVE)).json() == (await asked(url, ADA)).json()
    assert code(await asked(url, EVE, "DELETE")) == (409, None, "conflict")


async def test_idempotency_keys_of_two_owners_are_two(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", Badges, workers=[])
    key = {"idempotency-key": "k"}
    urls = [await submit(live, COMPLETIONS, PROMPT, **one, **key) for one in (ADA, ADA, BOB)]
    assert urls[0] == urls[1] != urls[2]


async def test_model_has_to_be_allowed_and_served(gateway_for: GatewayFor) -> None:
    away = Worker(url="http://127.0.0.1:9", models=("sim", "other"))
    live = await gateway_for("batch", Badges, workers=[away])
    headers = badge("ada batch models=sim,third")
    for path, body in DOORS:
        for model, expected in (
            ("sim", None),
            ("other", (403, "model", "model_not_allowed")),
            ("third", (404, "model", "model_not_found")),
        ):
            answer = await live.client.post(path, json={**body, "model": model}, headers=headers)
            assert expected is None or code(answer) == expected
            assert answer.is_success == (expected is None)
    assert len(await ids(live, ADA)) == len(DOORS)


async def test_call_of_an_item_has_the_rights_of_its_owner(gateway_for: GatewayFor) -> None:
    """The key is in no header of the item's call; the principal is the one that submitted it."""
    live = await gateway_for("batch", "usage", Badges)
    await over(live, await submit(live, COMPLETIONS, PROMPT, **ADA), **ADA)
    answer = await live.client.get("/monitor/key_usage", headers=badge("eve monitor"))
    [row] = answer.json()["data"]
    assert (row["key"], row["source"], row["requests"]) == ("ada", "batch", 1)
