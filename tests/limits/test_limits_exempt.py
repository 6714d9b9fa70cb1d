"""Keys of evaluation harnesses: their calls are counted, and none of them is ever rejected."""

import asyncio
from pathlib import Path

import httpx
import pytest
from gateway_plugins.limits import Limits
from gateway_plugins.limits.accounts import Account
from gateway_plugins.limits.book import Book
from gateway_plugins.limits.need import ZERO_NEED, Need
from gateway_plugins.limits.options import KeyLimits, Options
from gateway_plugins.limits.refusing import LimitReached
from gateway_plugins.limits.rules import Rules, Terms
from hypothesis import given
from hypothesis import strategies as st
from limits.test_limits import ask, code_of
from limits.test_limits_processes import shown, two
from limits.test_limits_waiting import Gate
from support.callers.scraping import scrape
from support.plugins.recording_plugin import until

from gateway import Call, Principal, hookimpl
from gateway.config import PluginEntry
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, entry

HARNESS = "team realtime evaluator"
OTHER = "team realtime monitor"
STATE = "/admin/limits?key=team"


class Cards:
    """Takes callers for whom they say they are: `authorization: NAME SCOPES`."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        name, *scopes = (call.header("authorization") or "").split()
        return Principal(name, frozenset(scopes))


def limits(exempt_scope: str | None = "evaluator", **default: object) -> PluginEntry:
    return entry("limits", default=default, exempt_scope=exempt_scope)


def ask_soon(live: Live, card: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(ask(live, card))


def codes(answers: list[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


async def test_exempt_calls_run_at_once_beyond_the_concurrent_calls(
    gateway_for: GatewayFor,
) -> None:
    gate = Gate()
    async with gate.worker:
        live = await gateway_for(Cards, limits(concurrent=1), workers=[gate.worker.url])
        live.client.headers["authorization"] = OTHER
        calls = [ask_soon(live, HARNESS) for _ in range(5)]
        await until(lambda: gate.begun == 5)
        state = await shown(live, STATE)
        assert state["in_flight"] == 5
        assert state["limits"]["concurrent_calls"] == {
            "limit": 1,
            "remaining": -4,
            "resets_in": None,
        }
        async with asyncio.timeout(30):
            assert code_of(await ask(live, OTHER)) == "concurrent_calls", "they count for others"
        for _ in calls:
            gate.go.release()
        assert codes(await asyncio.gather(*calls)) == [200] * 5
        assert (await shown(live, STATE))["in_flight"] == 0


async def test_exempt_call_does_not_wait_for_others_of_its_key(gateway_for: GatewayFor) -> None:
    gate = Gate()
    async with gate.worker:
        options = limits(concurrent=1, max_waiting=1)
        live = await gateway_for(Cards, options, workers=[gate.worker.url])
        lines = live.plugin(Limits)._lines
        running, waiting = ask_soon(live, OTHER), ask_soon(live, OTHER)
        await until(lambda: (gate.begun, len(lines)) == (1, 1))
        calls = [ask_soon(live, HARNESS) for _ in range(5)]
        await until(lambda: gate.begun == 6)
        assert len(lines) == 1
        for _ in range(7):
            gate.go.release()
        assert codes(await asyncio.gather(running, waiting, *calls)) == [200] * 7


@pytest.mark.parametrize(
    "limit",
    [
        {"requests_per_minute": 1},
        {"tokens_per_minute": 1},
        {"tokens_per_day": 1},
        {"tokens_per_month": 1},
    ],
    ids=lambda limit: next(iter(limit)),
)
async def test_exempt_calls_are_counted_and_never_rejected(
    gateway_for: GatewayFor, limit: dict[str, int]
) -> None:
    [name] = limit
    live = await gateway_for(Cards, entry("limits", default=limit), "metrics")
    live.client.headers["authorization"] = OTHER
    assert codes([await ask(live, HARNESS, max_tokens=5) for _ in range(5)]) == [200] * 5
    await until(lambda: not live.gateway.proxy.in_flight)
    assert (await shown(live, STATE))["limits"][name]["remaining"] < 1
    assert (await scrape(live)).value("gateway_limits_refused_total") == 0
    assert code_of(await ask(live, OTHER)) == name, "the use counts for others"
    assert codes([await ask(live, HARNESS)]) == [200]
    assert (await scrape(live)).value("gateway_limits_refused_total", limit=name) == 1


async def test_budget_counts_what_exempt_calls_use(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Cards, limits(tokens_per_day=10))
    live.client.headers["authorization"] = OTHER
    answers = [await ask(live, HARNESS, max_tokens=5) for _ in range(4)]
    await until(lambda: not live.gateway.proxy.in_flight)
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers)
    assert used > 10
    assert (await shown(live, STATE))["limits"]["tokens_per_day"]["remaining"] == 10 - used


@pytest.mark.parametrize(
    ("option", "scopes", "exempt"),
    [
        ("evaluator", "realtime", False),
        ("evaluator", "eval evaluator", True),
        ("harness", "realtime evaluator", False),
        ("harness", "realtime harness", True),
        (None, "realtime evaluator", False),
    ],
)
async def test_scope_of_exempt_calls_is_an_option(
    gateway_for: GatewayFor, option: str | None, scopes: str, *, exempt: bool
) -> None:
    live = await gateway_for(Cards, limits(option, requests_per_minute=1))
    answers = [await ask(live, f"team {scopes}") for _ in range(2)]
    assert codes(answers) == [200, 200 if exempt else 429]


async def test_reload_may_end_an_exemption_of_a_key_that_calls(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Cards, limits(requests_per_minute=1))
    assert codes([await ask(live, HARNESS) for _ in range(3)]) == [200] * 3
    default = KeyLimits(requests_per_minute=1)
    live.plugin(Limits).reconfigure(Options(default=default, exempt_scope=None))
    assert code_of(await ask(live, HARNESS)) == "requests_per_minute"


async def test_exempt_calls_count_in_all_processes_and_are_rejected_in_none(
    simulator: Simulator, tmp_path: Path
) -> None:
    options = limits(concurrent=1, requests_per_minute=2, tokens_per_day=10)
    async with two(simulator, tmp_path, entry(Cards), options) as both:
        slow = {"x-sim-itl": "60", "authorization": HARNESS}
        body = {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        for live in both:
            live.client.headers["authorization"] = OTHER
        send = both[0].client.stream("POST", "/v1/chat/completions", json=body, headers=slow)
        async with send as running:
            assert running.status_code == 200
            assert codes([await ask(live, HARNESS) for live in both * 3]) == [200] * 6
            for live in both:
                assert (await shown(live, STATE))["in_flight"] == 1
                assert (await ask(live, OTHER)).status_code == 429
        for live in both:
            left = (await shown(live, STATE))["limits"]
            assert left["requests_per_minute"]["remaining"] < 1
            assert left["tokens_per_day"]["remaining"] < 0


async def test_evaluator_meets_no_limit_and_no_full_queue(gateway_for: GatewayFor) -> None:
    """Both plugins with their defaults for the scope, and a harness with 20 calls at once."""
    few = entry("limits", default={"concurrent": 1, "requests_per_minute": 1})
    queue = {"max_length": 1, "max_wait": 0.001}
    waiting = entry("backpressure", max_in_flight_per_worker=1, queue=queue)
    live = await gateway_for(Cards, few, waiting)
    answers = await asyncio.gather(*(ask(live, HARNESS) for _ in range(20)))
    assert codes(answers) == [200] * 20
    assert code_of(await ask(live, OTHER)) == "requests_per_minute"


FLOWS = {"requests_per_minute": 60, "tokens_per_minute": 600, "concurrent": 1}


def terms_of(**limits: int) -> Terms:
    terms = Rules(Options(default=KeyLimits(**limits))).terms("key", None)
    assert terms is not None
    return terms


def test_exempt_calls_leave_others_of_their_key_no_debt() -> None:
    account, book = Account("key", terms_of(**FLOWS), 0.0), Book(0.0)
    account.exempt = True
    for _ in range(1_000):
        visit = account.enter(Need(100, 0), book, 0.0)
        visit.finished(None)
        visit.settle(Need(500, 0), 0.0)
    account.exempt = False
    with pytest.raises(LimitReached, match="requests_per_minute"):
        account.enter(Need(10, 0), book, 0.9)
    assert account.enter(Need(10, 0), book, 1.1).need.tokens == 10


USES = st.tuples(st.booleans(), st.integers(0, 900), st.integers(0, 900), st.floats(0, 30))


@given(st.lists(USES, max_size=30))
def test_exempt_calls_always_enter_and_take_what_there_is(
    uses: list[tuple[bool, int, int, float]],
) -> None:
    account, book, now = Account("key", terms_of(**FLOWS), 0.0), Book(0.0), 0.0
    assert account.requests is not None
    assert account.tokens is not None
    for exempt, needed, used, pause in uses:
        now += pause
        account.exempt = exempt
        before = account.tokens.refill(now)
        try:
            visit = account.enter(Need(needed, 0), book, now)
        except LimitReached:
            assert not exempt
            continue
        visit.finished(None)
        visit.settle(Need(used, 0), now)
        assert account.requests.level >= 0
        if exempt:
            expected = max(min(before, 0.0), before - used)
            assert account.tokens.level == pytest.approx(expected)


def test_visit_of_an_exempt_call_settles_as_such_after_others_have_called() -> None:
    account, book = Account("key", terms_of(**FLOWS), 0.0), Book(0.0)
    account.exempt = True
    visit = account.enter(ZERO_NEED, book, 0.0)
    account.exempt = False
    visit.settle(Need(9_000, 0), 0.0)
    assert account.tokens is not None
    assert account.tokens.level == 0
