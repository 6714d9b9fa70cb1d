"""What keys may use by the minute and at a time, over real sockets."""

import asyncio
import contextlib
from time import monotonic
from typing import Any

import httpx
import openai
import pytest
from gateway_plugins.limits import Limits
from gateway_plugins.limits.estimate import estimate
from openai import AsyncOpenAI
from support.callers.scraping import scrape
from support.gateways.capturing import chat
from support.plugins.recording_plugin import Watcher, until

from gateway import Attempt, Call, ConfigError, Outcome, Principal, hookimpl
from gateway.config import PluginEntry
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, ScriptedWorker, answer_of, entry, make_call

CHAT = "/v1/chat/completions"
MONITOR = frozenset({"realtime", "monitor"})


class Badges:
    """Takes callers for whom they say they are: `authorization: NAME TIER`."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        name, _, tier = (call.header("authorization") or "").partition(" ")
        return Principal(name, MONITOR, labels={"tier": tier}) if name else None


class Breaking:
    """Breaks where a call's header tells it to."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        self._reach("prepare", call)

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self._reach("attempt_finished", call)

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self._reach("call_finished", call)

    def _reach(self, where: str, call: Call) -> None:
        if call.header("x-break") == where:
            raise ValueError("on purpose")


def limits(**options: object) -> PluginEntry:
    return entry("limits", **options)


async def ask(live: Live, badge: str = "", **fields: Any) -> httpx.Response:
    headers = {"authorization": badge} if badge else {}
    return await live.client.post(CHAT, json=chat(**fields), headers=headers)


def code_of(answer: httpx.Response) -> str:
    assert answer.status_code == 429, answer.text
    assert answer.json()["error"]["type"] == "rate_limit_error"
    code: str = answer.json()["error"]["code"]
    return code


async def left(live: Live, limit: str, key: str = "anonymous") -> float:
    answer = await live.client.get("/admin/limits", params={"key": key})
    remaining: float = answer.json()["limits"][limit]["remaining"]
    return remaining


async def test_limits_reject_requests_over_the_rate_and_report_it(gateway_for: GatewayFor) -> None:
    live = await gateway_for(limits(default={"requests_per_minute": 2}))
    first, second, third = [await ask(live) for _ in range(3)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert code_of(third) == "requests_per_minute"
    remaining = [one.headers["x-ratelimit-remaining-requests"] for one in (first, second, third)]
    assert remaining == ["1", "0", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    assert 25 <= int(third.headers["retry-after"]) <= 30
    assert int(third.headers["retry-after-ms"]) <= 1_000 * int(third.headers["retry-after"])
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert "x-should-retry" not in third.headers


async def test_limits_of_a_key_combine_default_tier_and_its_own(gateway_for: GatewayFor) -> None:
    options = limits(
        default={"requests_per_minute": 1, "concurrent": 9},
        tiers={"gold": {"requests_per_minute": 2}},
        keys={"free": {"requests_per_minute": None, "concurrent": None}, "own": {"concurrent": 1}},
    )
    live = await gateway_for(Badges, options)
    allowed = {}
    for badge in ("a", "b", "c gold", "own gold", "free gold", "d lead"):
        answers = [await ask(live, badge) for _ in range(3)]
        allowed[badge] = sum(one.status_code == 200 for one in answers)
    assert allowed == {"a": 1, "b": 1, "c gold": 2, "own gold": 2, "free gold": 3, "d lead": 1}
    page = await live.client.get("/admin/limits?limit=2", headers={"authorization": "a"})
    assert [one["key"] for one in page.json()["keys"]] == ["a", "b"]
    page = await live.client.get("/admin/limits?cursor=b", headers={"authorization": "a"})
    assert [one["key"] for one in page.json()["keys"]] == ["c", "d", "own"]
    assert page.json()["keys"][2]["limits"]["concurrent_calls"]["limit"] == 1
    assert page.json()["next"] is None


async def test_limits_take_estimated_tokens_and_settle_with_the_usage(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(limits(default={"tokens_per_minute": 3_000}), Watcher)
    for stream in (False, True):
        before = await left(live, "tokens_per_minute")
        answer = await ask(live, max_tokens=300, stop=None, stream=stream, n=1)
        assert answer.status_code == 200
        assert (
            int(answer.headers["x-ratelimit-remaining-tokens"]) < before - 200
        )  # a slow machine gives it time to refill
        usage = live.plugin(Watcher).outcomes[-1].usage
        assert usage is not None
        assert not usage.counted, "the engine was asked for it"
        now = await left(live, "tokens_per_minute")
        assert before - usage.total_tokens <= now + 0.01


async def test_limits_reject_a_call_if_running_calls_hold_the_tokens(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(limits(default={"tokens_per_minute": 1_000}))
    slow = {"x-sim-itl": "60"}
    body = chat(max_tokens=900, stream=True)
    async with live.client.stream("POST", CHAT, json=body, headers=slow):
        refused = await ask(live, max_tokens=200)
    assert code_of(refused) == "tokens_per_minute"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_limits_admit_an_oversized_call_if_nothing_is_used(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(limits(default={"tokens_per_minute": 20}, completion_estimate=5))
    answer = await ask(live, max_tokens=2_000, stop=["a", "e", "i"], n=1)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
    assert await left(live, "tokens_per_minute") < 20
    assert code_of(await ask(live, max_tokens=2_000)) == "tokens_per_minute"


@pytest.mark.parametrize("path", [CHAT, "/v1/%63hat/completions"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"max_tokens": "many"}',
        b'{"max_tokens": -5, "n": -1}',
        b'{"max_tokens": %b}' % (b"9" * 5_000),
        b'{"max_tokens":' + b"[" * 5_000,
        b'\xff{"n": 1}',
        b"",
    ],
)
async def test_limits_handle_any_body_and_refund_a_rejected_call(
    gateway_for: GatewayFor, path: str, body: bytes
) -> None:
    refusing = answer_of(b"{}", status="400 Bad Request")
    async with ScriptedWorker(refusing) as worker:
        live = await gateway_for(
            limits(default={"tokens_per_minute": 9_000, "concurrent": 1}), workers=(worker.url,)
        )
        assert (await live.client.post(path, content=body)).status_code == 400
    assert await left(live, "tokens_per_minute") == 9_000, "the worker has run nothing"


def test_estimate_reads_max_tokens_as_engines_do() -> None:
    for fields, tokens in (
        ({"max_tokens": "5", "n": 2.0}, 10),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 7),
        ({"max_tokens": 1 << 60, "n": 9}, 1 << 32),
        ({"max_tokens": -1}, 100),
        ({"n": 3}, 300),
        ({"max_tokens": [], "n": 3}, 300),
    ):
        call = make_call(chat(**{"max_tokens": None, **fields}))  # type: ignore[arg-type]
        assert estimate(call, 100)[1] == tokens


async def test_limits_reserve_the_tokens_of_all_prompts_and_choices(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(limits(default={"tokens_per_day": 5_000}))
    for fields in (
        {"prompt": ["a"] * 50, "max_tokens": 1_000},
        {"prompt": [[1, 2], [3]], "max_tokens": 900, "n": 3},
        {"prompt": "a", "max_tokens": 900, "best_of": 6},
        {"prompt": [7] * 6_000, "max_tokens": 1},
    ):
        refused = await live.client.post("/v1/completions", json={"model": "m", **fields})
        assert (refused.status_code, code_of(refused)) == (429, "tokens_per_day"), fields
    assert await left(live, "tokens_per_day") == 5_000


async def test_limits_recognize_a_percent_encoded_path(gateway_for: GatewayFor) -> None:
    live = await gateway_for(limits(default={"tokens_per_minute": 9_000}))
    answer = await live.client.post("/v1/%63hat/completions", json=chat(max_tokens=500))
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 8_500


async def test_concurrent_slot_is_returned_however_a_call_ends(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with ScriptedWorker(b"") as gone:
        pass
    live = await gateway_for(
        limits(default={"concurrent": 1, "tokens_per_minute": 1 << 30}), Breaking, Watcher
    )
    faults = ("reset-before", "reset:2", "500", "garbage", "truncate", "close", "abort:2")
    kinds = [{"x-sim-fault": fault} for fault in faults]
    kinds += [{"x-break": at} for at in ("prepare", "attempt_finished", "call_finished")]
    for headers in kinds:
        for stream in (False, True):
            with contextlib.suppress(httpx.HTTPError):
                answer = await live.client.post(CHAT, json=chat(stream=stream), headers=headers)
                assert answer.status_code != 429, headers
    assert (await live.client.post(CHAT, content=b"no json")).status_code == 400
    await abandon(live, simulator)
    assert (await ask(live)).status_code == 200
    assert await left(live, "concurrent_calls") == 1
    dead = await gateway_for(limits(default={"concurrent": 1}), workers=(gone.url,))
    assert [(await ask(dead)).status_code for _ in range(2)] == [502, 503]


async def test_caller_above_its_concurrent_limit_is_told_to_come_back_in_a_second(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(limits(default={"concurrent": 1}))
    slow = {"x-sim-itl": "60", "x-sim-ttft": "0"}
    async with live.client.stream("POST", CHAT, json=chat(stream=True), headers=slow):
        refused = await ask(live)
    assert code_of(refused) == "concurrent_calls"
    assert refused.headers["retry-after"] == "1"
    assert "x-should-retry" not in refused.headers


async def abandon(live: Live, simulator: Simulator) -> None:
    """A caller that leaves in the middle of a stream, and one that leaves before."""
    ended = len(live.plugin(Watcher).outcomes)
    slow = {"x-sim-itl": "60", "x-sim-ttft": "0"}
    async with live.client.stream("POST", CHAT, json=chat(stream=True), headers=slow):
        assert code_of(await ask(live)) == "concurrent_calls"
    await live.plugin(Watcher).calls(ended + 2)
    waiting = asyncio.create_task(live.client.post(CHAT, json=chat(), headers={"x-sim-itl": "60"}))
    await until(lambda: live.gateway.workers.slots.used == 1)
    waiting.cancel()
    await live.plugin(Watcher).calls(ended + 3)


async def test_limits_keep_the_estimate_of_an_aborted_call(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(limits(default={"tokens_per_minute": 3_000}), Watcher)
    body = chat(max_tokens=1_500)
    waiting = asyncio.create_task(live.client.post(CHAT, json=body, headers={"x-sim-itl": "60"}))
    await until(lambda: _is_sent(live))
    waiting.cancel()
    await live.plugin(Watcher).calls(1)
    assert await left(live, "tokens_per_minute") < 2_500


def _is_sent(live: Live) -> bool:
    """Whether a worker may be running the one call there is."""
    attempts = (one for call in live.gateway.calls_in_flight for one in call.attempts)
    return any(one.connected is not None for one in attempts)


async def test_listing_models_costs_no_tokens(gateway_for: GatewayFor) -> None:
    live = await gateway_for(limits(default={"tokens_per_minute": 5, "tokens_per_day": 1_000}))
    await ask(live, max_tokens=50)
    assert await left(live, "tokens_per_minute") < 5
    assert (await live.client.get("/v1/models")).status_code == 200


async def test_limits_count_rejections_in_the_metrics(gateway_for: GatewayFor) -> None:
    live = await gateway_for(limits(default={"requests_per_minute": 1}), "metrics")
    for _ in range(3):
        await ask(live)
    found = await scrape(live)
    name = "gateway_limits_refused_total"
    assert found.value(name, limit="requests_per_minute") == found.value(name) == 2
    assert found.value("gateway_limits_keys") == 1


async def test_limits_reload_keeps_usage(gateway_for: GatewayFor) -> None:
    live = await gateway_for(limits(default={"requests_per_minute": 5, "concurrent": 1}))
    assert (await ask(live)).status_code == 200
    plugin = live.plugin(Limits)
    [loaded] = [one for one in live.gateway.plugins.loaded if one.name == "limits"]
    changed = limits(default={"requests_per_minute": 2}).options_as(type(loaded.config), [])
    assert changed is not None
    plugin.reconfigure(changed)
    assert (await ask(live)).headers["x-ratelimit-remaining-requests"] == "1"


async def test_openai_client_waits_as_long_as_retry_after(gateway_for: GatewayFor) -> None:
    live = await gateway_for(limits(default={"requests_per_minute": 300, "burst_requests": 1}))
    async with AsyncOpenAI(base_url=live.url + "/v1", api_key="unused", max_retries=1) as client:
        began = monotonic()
        for _ in range(3):
            answer = await client.chat.completions.create(
                model="sim", messages=[{"role": "user", "content": "Hello"}], max_tokens=1
            )
            assert answer.choices
        assert monotonic() - began > 0.35, "it has waited twice, a fifth of a second each"


async def test_openai_client_does_not_retry_a_daily_limit(gateway_for: GatewayFor) -> None:
    live = await gateway_for(limits(default={"tokens_per_day": 10}), Watcher)
    async with AsyncOpenAI(base_url=live.url + "/v1", api_key="unused", max_retries=3) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(
                model="sim", messages=[{"role": "user", "content": "Hello"}]
            )
    assert caught.value.code == "tokens_per_day"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(live.plugin(Watcher).outcomes) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"default": {"cost_per_day": 1}}, 'one for the model "*"'),
        ({"default": {"requests_per_minute": 0}}, "expected an integer greater than 0"),
        ({"default": {"request_per_minute": 1}}, 'did you mean "requests_per_minute"'),
        ({"prices": {"*": {"input": 1}}}, 'prices."*".output: missing'),
    ],
)
async def test_limits_reject_invalid_options(
    gateway_for: GatewayFor, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await gateway_for(limits(**options))
    assert said in str(caught.value)
