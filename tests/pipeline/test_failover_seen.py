"""What failover looks like to those who watch: plugins, traces, logs; and what bounds it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.gateways.capturing import call as traced
from support.gateways.capturing import capturing
from support.gateways.dispatching import code_of, dispatch, gateway_of, plugin_of
from support.plugins.recording_plugin import Watcher, until
from support.workers.failing_worker import (
    OK,
    QUEUE_FULL,
    QUICK,
    InOrder,
    assert_idle,
    closes,
    refusal,
    unreachable,
)

from gateway import Attempt, Call, ChooseAgain, Headers, Outcome, Worker, hookimpl
from gateway.client import AsyncGatewayClient
from gateway.config import ServerLimits, Timeouts
from gateway.config import Worker as WorkerSettings
from gateway.pipeline import failover
from gateway.pipeline.refused import WorkerRefused
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, entry, make_call

CHAT = "/v1/chat/completions"


class Listening:
    """Writes down what its observer is told, and adds a line to the head of the answer."""

    def __init__(self) -> None:
        self.told: list[object] = []

    @hookimpl
    def observe(self, call: Call) -> object:
        return _Observer(call, self.told)

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self.told.append(attempt.worker.id)


class _Observer:
    def __init__(self, call: Call, told: list[object]) -> None:
        self._call = call
        self._told = told

    def started(self, status: int, headers: Headers) -> None:
        assert self._call.worker is not None
        self._call.add_header("x-answered", self._call.worker.id)
        self._told.append(status)

    def data(self, chunk: bytes) -> None:
        self._told.append(chunk)

    def finished(self, outcome: Outcome) -> None:
        self._told.append("finished")


@pytest.mark.parametrize(
    "plugins", [(), ("support.callers.response_paths:Injecting",)], ids=["plain", "injecting"]
)
async def test_observers_see_only_the_response_the_caller_gets(
    gateway_for: GatewayFor, plugins: Sequence[str]
) -> None:
    async with ScriptedWorker(refusal(503)) as one, ScriptedWorker(OK) as two:
        live = await gateway_for(
            Listening, *plugins, InOrder, workers=(one.url, two.url), failover=QUICK
        )
        answer = await live.client.post(CHAT, json={"messages": []})
        a, b = (worker.id for worker in live.gateway.workers.all)
        told = live.plugin(Listening).told
    assert answer.headers.get_list("x-answered") == [b]
    assert told == [a, 200, OK.partition(b"\r\n\r\n")[2], b, "finished"]


async def test_observers_see_a_rejection_if_it_is_the_response(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(refusal(503)) as one, ScriptedWorker(refusal(502)) as two:
        live = await gateway_for(Listening, InOrder, workers=(one.url, two.url), failover=QUICK)
        answer = await live.client.post(CHAT, json={"messages": []})
        a, b = (worker.id for worker in live.gateway.workers.all)
        told = live.plugin(Listening).told
    assert answer.headers.get_list("x-answered") == [b]
    assert told == [a, b, 502, QUEUE_FULL, "finished"]


async def test_trace_lists_each_attempt(gateway_for: GatewayFor, tmp_path: Path) -> None:
    async with ScriptedWorker(refusal(503)) as busy, ScriptedWorker(OK) as well:
        with unreachable() as gone:
            urls = {"gone": gone, "busy": busy.url, "well": well.url}
            workers = [WorkerSettings(url=url, worker_id=name) for name, url in urls.items()]
            live = await capturing(gateway_for, tmp_path, InOrder, workers=workers, failover=QUICK)
            await traced(live, "s")
        async with AsyncGatewayClient(live.url) as client:
            [trace] = await client.query_traces()
    assert [(one.worker, one.status, one.error) for one in trace.attempts] == [
        ("gone", None, "upstream_connect_failed"),
        ("busy", 503, None),
        ("well", 200, None),
    ]


async def test_access_log_counts_attempts(gateway_for: GatewayFor, tmp_path: Path) -> None:
    log = entry("access_log", path=str(tmp_path / "log"))
    async with ScriptedWorker(refusal(503)) as one, ScriptedWorker(OK) as two:
        live = await gateway_for(log, InOrder, workers=(one.url, two.url), failover=QUICK)
        await live.client.post(CHAT, json={"messages": []})
        await until(lambda: bool((tmp_path / "log").read_text()))
    line = json.loads((tmp_path / "log").read_text())
    assert (line["status"], line["attempts"]) == (200, 2)


# the budget


class Clock:
    """Stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr("gateway.pipeline.failover.monotonic", lambda: self.now)


def test_budget_grants_a_share_of_the_calls_plus_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = failover.Budget()
    granted = sum(budget.take(0.25, calls) for calls in range(1, 1001))
    assert granted == failover.INITIAL_REPEATS + 250
    clock.now += 3
    assert [budget.take(0.25, 1000) for _ in range(4)] == [True, True, True, False]
    clock.now += 1e9
    granted = sum(budget.take(0.25, 1000) for _ in range(1000))
    assert granted == failover.MAX_SAVED_REPEATS
    assert not budget.take(0, 10_000)


async def test_budget_bounds_repeats_in_a_burst_of_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch)
    settings = replace(QUICK, budget=0.25)
    async with (
        ScriptedWorker(refusal(503)) as one,
        ScriptedWorker(OK) as two,
        gateway_of(InOrder, workers=[one.url, two.url], failover=settings) as gateway,
    ):
        calls = [await dispatch(gateway) for _ in range(80)]
    answered = [call.caller.status for call in calls]
    assert (answered.count(200), answered.count(503)) == (10 + 20, 50)
    assert len(two.requests) == 30


async def test_unreachable_worker_uses_no_budget() -> None:
    with unreachable() as url:
        async with (
            ScriptedWorker(OK) as two,
            gateway_of(
                InOrder, workers=[url, two.url], failover=replace(QUICK, budget=0.0)
            ) as gateway,
        ):
            calls = [await dispatch(gateway) for _ in range(3)]
    assert [call.caller.status for call in calls] == [200] * 3


def test_pause_doubles_with_jitter_up_to_a_bound() -> None:
    refused = WorkerRefused(503, [], b"", "busy")
    for backoff, asked, mean in [(0.1, 1, 0.1), (0.1, 3, 0.4), (0.1, 9, 5), (0.1, 5000, 5)]:
        waits = [failover.pause(refused, asked, replace(QUICK, backoff=backoff)) for _ in range(20)]
        assert mean * 0.5 <= min(waits) < max(waits) <= mean * 1.5


# choosing


class NeverContent:
    """Asks for another choice whatever it is offered."""

    def __init__(self) -> None:
        self.asked = 0

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        self.asked += 1
        raise ChooseAgain


async def test_choose_again_loop_ends_at_the_total_timeout() -> None:
    timeouts = Timeouts(total=0.1)
    async with (
        ScriptedWorker(OK) as worker,
        gateway_of(NeverContent, workers=[worker.url], timeouts=timeouts) as gateway,
    ):
        call = await dispatch(gateway)
        assert plugin_of(gateway, NeverContent).asked < 100
        assert_idle(gateway)
    assert code_of(call) == (504, "upstream_total_timeout")


async def test_call_waits_for_a_worker_slot() -> None:
    async with ScriptedWorker(OK) as worker, gateway_of(workers=[worker.url]) as gateway:
        [only] = gateway.workers.all
        only.slots.limit = 0
        call = make_call()
        asking = asyncio.create_task(dispatch(gateway, call))
        for _ in range(50):
            await asyncio.sleep(0)
        assert worker.connections == []
        only.slots.limit = 1
        assert (await asking).caller.status == 200
        assert_idle(gateway)


# whose fault it was


async def test_body_over_the_limit_is_no_error_of_the_worker(gateway_for: GatewayFor) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.wait_closed()

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(
            Watcher, workers=(worker.url,), server_limits=ServerLimits(max_body_bytes=2 << 20)
        )

        async def body() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"x" * (1 << 20)

        answer = await live.client.post(CHAT, content=body())
        [attempt] = live.plugin(Watcher).attempts
    assert answer.status_code == 413
    assert attempt.error is None
    assert live.gateway.workers.all[0].last_error is None


async def test_worker_ttft_and_duration_ignore_failed_attempts(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(refusal(503)) as one, ScriptedWorker(closes) as two:
        live = await gateway_for(workers=(one.url, two.url))
        for _ in range(2):
            await live.client.post(CHAT, content=b"{}")
        infos = [worker.info() for worker in live.gateway.workers.all]
    assert [(one.ttft, one.duration) for one in infos] == [(None, None)] * 2
    assert {one.last_error for one in infos} == {"status 503", "upstream_closed"}
