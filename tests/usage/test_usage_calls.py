"""GET /monitor/calls: the calls of a day, in pages, without those of the days beside it."""

from typing import Any

from gateway_plugins.usage.ledger.retention import Keep, Upkeep
from gateway_plugins.usage.ledger.sums import DAY
from gateway_plugins.usage.report.calls import _CALLS
from support.gateways.batch_doors import code
from support.gateways.capturing import chat
from support.runtime.boxes import CHAT
from usage.test_key_usage import MONITOR, NOON, count, row
from usage.test_usage import Badges

from gateway.testing import GatewayFor, Live

CALLS = "/monitor/calls"
THE_DAY = "20261121"
MIDNIGHT = NOON - DAY / 2


async def page(live: Live, **query: str | int) -> dict[str, Any]:
    answer = await live.client.get(CALLS, params={"day": THE_DAY, **query}, headers=MONITOR)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_calls_of_a_day_come_in_pages_the_newest_first(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    beside = [
        row(1, "before", time=MIDNIGHT - 0.001),
        row(2, "first", time=MIDNIGHT),
        row(3, "last", time=MIDNIGHT + DAY - 0.001),
        row(4, "after", time=MIDNIGHT + DAY),
    ]
    await count(live, [*beside, *(row(n, "ada") for n in range(10, 15))], summed=True)
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        one = await page(live, limit=2, **after)
        found += one["data"]
        if one["next"] is None:
            break
        after = {"after": one["next"]}
    assert [call["key"] for call in found] == ["last", *["ada"] * 5, "first"]
    times = [call["time"] for call in found]
    assert times == sorted(times, reverse=True)
    assert (await page(live, day="20261122"))["data"][0]["key"] == "after"
    assert (await page(live, day="20000101"))["data"] == []


async def test_calls_are_chosen_by_key_model_and_source(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    rows = [row(1, "ada"), row(2, "bob", model="m"), row(3, "ada", source="batch", outcome=1)]
    await count(live, rows, summed=False)
    chosen = (
        {"key_id": "ada"},
        {"model": "m"},
        {"source": "batch"},
        {"key_id": "ada", "model": "m"},
    )
    found = [[call["time"] - NOON for call in (await page(live, **one))["data"]] for one in chosen]
    assert found == [[3, 1], [2], [3], []]
    [batch] = (await page(live, source="batch"))["data"]
    assert (batch["outcome"], batch["counted"], batch["repeated"]) == ("error", False, False)


async def test_call_has_the_id_of_its_trace(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", "usage", "trace_capture")
    answer = await live.client.post(f"/sessions/a{CHAT}", json=chat())
    assert answer.status_code == 200
    [trace] = (await live.client.get("/sessions/a/traces")).json()
    [(day,)] = await live.gateway.storage.read(
        lambda db: list(db.select("SELECT DISTINCT day FROM usage_days"))
    )
    [call] = (await live.client.get(CALLS, params={"day": str(day)})).json()["data"]
    assert (call["trace_id"], call["model"], call["outcome"]) == (
        trace["trace_id"],
        "sim",
        "success",
    )


async def test_deleted_days_say_so(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    assert (await page(live))["kept_from"] is None
    await count(live, [row(1, "ada"), row(2, "ada", time=NOON + 9 * DAY)], summed=True)
    await Upkeep(live.gateway.storage, Keep(None, 1)).run_once(NOON + 9 * DAY)
    found = await page(live)
    assert (found["data"], found["kept_from"]) == ([], "20261129")


async def test_what_is_no_day_is_refused(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    for query in ("", "?day=20260230", "?day=2026-11-21", f"?day={THE_DAY}&after=x"):
        answer = await live.client.get(CALLS + query, headers=MONITOR)
        assert code(answer)[0] == 400, query
    caller = {"authorization": "ada realtime"}
    refused = await live.client.get(f"{CALLS}?day={THE_DAY}", headers=caller)
    assert code(refused)[2] == "missing_scope"


async def test_a_day_is_found_by_an_index(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Badges, "usage")
    names = ("first", "last", "begins", "ends", "key", "model", "source", "rows")
    named = dict.fromkeys(names)
    query = f"EXPLAIN QUERY PLAN {_CALLS}"
    [plan] = await live.gateway.storage.read(lambda db: list(db.select(query, named)))
    assert "SEARCH usage_calls USING" in plan[-1]
    assert "INDEX" in plan[-1]
