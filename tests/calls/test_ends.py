"""How calls end that are not carried through: refused, drained, cancelled, met by broken hooks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from support.gateways.dispatching import chat, code_of, dispatch, gateway_of, plugin_of
from support.plugins.recording_plugin import Watcher, until

from gateway import Attempt, Call, Forbidden, Gateway, Outcome, hookimpl
from gateway.config import ServerLimits
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import (
    RecordedCall,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    make_call,
)

# refusals of the core's own


async def test_call_without_workers_fails_with_no_worker() -> None:
    async with gateway_of() as gateway:
        call = await dispatch(gateway)
    assert code_of(call) == (503, "no_worker")
    assert (b"retry-after", b"1") in call.caller.headers
    assert call.attempts == []


@contextlib.asynccontextmanager
async def waiting(gateway: Gateway) -> AsyncIterator[RecordedCall]:
    """A call that is in flight all the while; at the end it is awaited."""
    call = chat()
    running = asyncio.create_task(gateway.proxy.dispatch(call))
    await until(lambda: bool(call.attempts))
    yield call
    await running


async def test_max_calls_rejects_a_call_over_the_limit() -> None:
    async with (
        Simulator(SimulatorConfig(ttft=60)) as sim,
        gateway_of(workers=[sim.url], limits=ServerLimits(max_calls=1)) as gateway,
    ):
        async with waiting(gateway) as first:
            assert code_of(await dispatch(gateway)) == (503, "too_many_calls")
            first.cancel(Forbidden("make room"))
        ended = await dispatch(gateway, make_call(path="/v1/models", method="GET"))
    assert ended.caller.status == 200


async def test_drain_waits_for_calls_in_flight() -> None:
    release = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await release.wait()
        await connection.write(answer_of(b"{}"))

    async with ScriptedWorker(script) as worker, gateway_of(workers=[worker.url]) as gateway:
        async with waiting(gateway) as call:
            draining = asyncio.create_task(gateway.drain(None))
            await until(lambda: gateway.proxy.draining)
            assert code_of(await dispatch(gateway)) == (503, "draining")
            assert not draining.done()
            release.set()
        await draining
    assert call.caller.status == 200


async def test_drain_cancels_calls_left_after_its_timeout() -> None:
    async with (
        Simulator(SimulatorConfig(ttft=60)) as sim,
        gateway_of(Watcher, workers=[sim.url]) as gateway,
    ):
        async with waiting(gateway) as call:
            await gateway.drain(0.01)
        assert plugin_of(gateway, Watcher).outcomes == [call.outcome]
    assert code_of(call) == (503, "drain_timeout")


async def test_cancelled_dispatch_is_recorded_and_leaks_nothing() -> None:
    async with (
        Simulator(SimulatorConfig(ttft=60)) as sim,
        gateway_of(Watcher, workers=[sim.url]) as gateway,
    ):
        call = chat()
        running = asyncio.create_task(gateway.proxy.dispatch(call))
        await until(lambda: bool(call.attempts))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        watcher = plugin_of(gateway, Watcher)
        assert (len(watcher.attempts), watcher.outcomes) == (1, [call.outcome])
        assert gateway.proxy.in_flight == set()
        assert gateway.workers.all[0].in_flight == 0
        await sim.idle()
    assert not call.outcome.complete


# hooks that break


class Broken:
    """Breaks in the hook that the caller names."""

    @hookimpl
    async def admit(self, call: Call) -> None:
        self._break(call, "admit")

    @hookimpl
    def observe(self, call: Call) -> object | None:
        self._break(call, "observe")
        return self if call.header("x-break") == "finished" else None

    def finished(self, outcome: Outcome) -> None:
        raise ValueError("broken on purpose")

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self._break(call, "attempt_finished")

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self._break(call, "call_finished")

    def _break(self, call: Call, where: str) -> None:
        if call.header("x-break") == where:
            raise ValueError("broken on purpose")


async def test_call_is_not_forwarded_if_its_admit_hook_fails() -> None:
    async with Simulator() as sim, gateway_of(Broken, Watcher, workers=[sim.url]) as gateway:
        call = await dispatch(gateway, chat(**{"x-break": "admit"}))
        assert plugin_of(gateway, Watcher).outcomes == [call.outcome]
    assert code_of(call) == (500, "hook_failed")
    assert sim.stats.accepted == 0


@pytest.mark.parametrize("where", ["observe", "attempt_finished", "finished", "call_finished"])
async def test_call_completes_despite_a_failing_observer_hook(where: str) -> None:
    async with Simulator() as sim, gateway_of(Broken, Watcher, workers=[sim.url]) as gateway:
        call = await dispatch(gateway, chat(**{"x-break": where}))
        watcher = plugin_of(gateway, Watcher)
        assert (len(watcher.attempts), len(watcher.outcomes)) == (1, 1)
    assert call.caller.status == 200
    assert call.caller.is_ended
    assert call.outcome.complete
    assert call.outcome.failures == ["Broken"]
