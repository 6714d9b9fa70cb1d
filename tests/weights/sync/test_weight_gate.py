"""Where calls wait while the weights change."""

import asyncio
from collections.abc import Sequence

import pytest
from gateway_plugins.weights.gate import Gate, WeightsUpdating, drained
from support.gateways.dispatching import chat, code_of, dispatch, gateway_of, plugin_of
from support.plugins.recording_plugin import until

from gateway import Call, ChooseAgain, Gateway, Worker, hookimpl
from gateway.calls.keepalive import COMMENT
from gateway.simulator import Simulator
from gateway.testing import make_call

LONG = 60.0
SHORT = 0.05


class Gated:
    """Notes the calls that have passed, in their order."""

    def __init__(self) -> None:
        self.gate = Gate(length=3, wait=LONG)
        self.passed: list[str] = []

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        await self.gate.passed(call)
        self.passed.append(call.id)
        return workers


class Slow:
    """Looks at a call that has passed the gate for as long as the test likes."""

    def __init__(self) -> None:
        self.looking = asyncio.Event()
        self.seen = asyncio.Event()

    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> None:
        self.looking.set()
        await self.seen.wait()


def test_open_gate_passes_a_call_without_suspending_it() -> None:
    passing = Gate().passed(make_call())
    with pytest.raises(StopIteration):
        passing.send(None)


async def held(gate: Gate, count: int) -> None:
    await until(lambda: gate.held == count)


async def test_gate_releases_calls_in_order_of_arrival(simulator: Simulator) -> None:
    async with gateway_of(Gated, workers=(simulator.url,)) as gateway:
        gated = plugin_of(gateway, Gated)
        gated.gate.close("the weights are being changed")
        tasks = []
        for number in range(3):
            call = chat(**{"x-request-id": str(number)})
            tasks.append(asyncio.create_task(dispatch(gateway, call)))
            await held(gated.gate, number + 1)
        assert gated.passed == []
        gated.gate.open()
        assert [(await task).caller.status for task in tasks] == [200] * 3
        assert gated.passed == ["0", "1", "2"]
        assert gated.gate.held == 0


async def test_gate_rejects_a_call_beyond_its_length(simulator: Simulator) -> None:
    async with gateway_of(Gated, workers=(simulator.url,)) as gateway:
        gate = plugin_of(gateway, Gated).gate
        gate.close("the weights are being changed to step-2")
        tasks = [asyncio.create_task(dispatch(gateway)) for _ in range(3)]
        await held(gate, 3)
        refused = await dispatch(gateway)
        assert code_of(refused) == (503, "weights_updating")
        assert dict(refused.caller.headers)[b"retry-after"] == b"5"
        assert b"changed to step-2, and 3 calls wait already" in refused.caller.body
        gate.open()
        assert [(await task).caller.status for task in tasks] == [200] * 3


async def test_gate_rejects_a_call_after_its_wait_timeout() -> None:
    gate = Gate(wait=SHORT)
    gate.close("the weights are being changed")
    with pytest.raises(WeightsUpdating, match=r"has waited 0\.05 s"):
        await gate.passed(make_call())
    assert gate.held == 0


async def test_gate_frees_the_place_of_a_cancelled_call() -> None:
    gate = Gate(length=1)
    gate.close("the weights are being changed")
    waiting = asyncio.create_task(gate.passed(make_call()))
    await held(gate, 1)
    waiting.cancel()
    await held(gate, 0)
    gate.open()


async def test_gate_that_was_never_closed_may_be_opened() -> None:
    gate = Gate()
    gate.open()
    await gate.passed(make_call())


def body(*, stream: object) -> dict[str, object]:
    return {"messages": [], "stream": stream}


async def test_gate_sends_comments_only_to_calls_that_stream() -> None:
    gate = Gate(comments=0.01)
    gate.close("the weights are being changed")
    stream = make_call(body(stream=True))
    others = [make_call(one) for one in (body(stream="false"), b"no JSON", b"", b"[]")]
    tasks = [asyncio.create_task(gate.passed(call)) for call in (stream, *others)]
    await until(lambda: stream.caller.chunks[:2] == [COMMENT] * 2)
    gate.open()
    for task in tasks:
        with pytest.raises(ChooseAgain):
            await task
    assert [call.caller.chunks for call in others] == [[]] * len(others)


async def test_closed_gate_stops_the_attempt_of_a_call_that_already_passed(
    simulator: Simulator,
) -> None:
    async with gateway_of(Gated, Slow, workers=(simulator.url,)) as gateway:
        gated, slow = plugin_of(gateway, Gated), plugin_of(gateway, Slow)
        asked = asyncio.create_task(dispatch(gateway))
        await slow.looking.wait()
        gated.gate.close("the weights are being changed", gateway.workers.all)
        slow.seen.set()
        await held(gated.gate, 1)
        assert simulator.stats.in_flight == simulator.stats.served == 0
        gated.gate.open()
        assert (await asked).caller.status == 200
        assert gateway.workers.all[0].barred == 0


async def test_worker_stays_barred_until_both_gates_open() -> None:
    async with gateway_of(workers=("http://127.0.0.1:9",)) as gateway:
        [worker] = gateway.workers.all
        one, other = Gate(), Gate()
        for gate in (one, other, one):
            gate.close("the weights are being changed", gateway.workers.all)
        one.open()
        assert not worker.begin()
        other.open()
        assert worker.begin()
        worker.end()


async def busy(gateway: Gateway) -> tuple[Worker, Worker]:
    one, other = gateway.workers.all
    for worker in (one, one, other):
        assert worker.begin()
    return one, other


async def test_drained_waits_for_the_last_attempt_of_a_worker() -> None:
    async with gateway_of(workers=("http://127.0.0.1:9", "http://127.0.0.1:10")) as gateway:
        one, other = await busy(gateway)
        waiting = asyncio.create_task(drained(gateway.workers, [one], None))
        listening = len(gateway.workers.freed)
        await until(lambda: len(gateway.workers.freed) == listening + 1)
        one.end()
        other.end()
        await asyncio.sleep(0)
        assert not waiting.done()
        one.end()
        assert await waiting == []
        assert len(gateway.workers.freed) == listening


async def test_drained_returns_the_workers_still_busy_at_the_timeout() -> None:
    async with gateway_of(workers=("http://127.0.0.1:9", "http://127.0.0.1:10")) as gateway:
        one, other = await busy(gateway)
        other.end()
        assert await drained(gateway.workers, [one, other], SHORT) == [one]
        one.end()
        one.end()
        assert await drained(gateway.workers, [one, other], SHORT) == []
