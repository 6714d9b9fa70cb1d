"""Calls of evaluation harnesses, which give up after a few errors: they wait, and get no error."""

import asyncio

import msgspec
import pytest
from gateway_plugins.backpressure.options import Options
from support.gateways.dispatching import code_of
from support.workers.holding_worker import Fleet, fleet

from gateway import Worker, config, hookimpl
from gateway.testing import RecordedCall

ONE = config.Worker(url="http://one", worker_id="one")
BRIEF = {"max_length": 1, "max_wait": 0.02}


class Doubts:
    """Another plugin that leaves out whom the test doubts."""

    @hookimpl
    async def filter_workers(self, workers: list[Worker]) -> list[Worker]:
        return [one for one in workers if "doubt" not in one.conditions]


async def evaluate(calls: Fleet, scopes: str = "realtime evaluator") -> RecordedCall:
    """Begin a call of a harness, and let it come as far as it can."""
    made = calls.call(x_principal="lm-eval", x_scopes=scopes)
    await calls.settle()
    return made


async def ended(calls: Fleet, call: RecordedCall) -> tuple[int, str]:
    async with asyncio.timeout(30):
        await calls.running[call]
    return code_of(call)


async def serve(calls: Fleet, *expected: RecordedCall) -> None:
    """Answer these calls, one after another."""
    for call in expected:
        assert not calls.running[call].done()
        calls.pool("one").answer_next()
        await calls.settle()
        assert (calls.running[call].done(), call.caller.status) == (True, 200)


@pytest.mark.parametrize("max_length", [0, 1])
async def test_patient_call_is_admitted_to_a_full_queue(max_length: int) -> None:
    queue = {"max_length": max_length}
    async with fleet(ONE, max_in_flight_per_worker=1, queue=queue) as calls:
        made = [calls.call(), *[calls.call() for _ in range(max_length)]]
        await calls.settle()
        made += [await evaluate(calls) for _ in range(5)]
        assert calls.queue.report().length == 5 + max_length
        assert await ended(calls, calls.call()) == (429, "queue_full"), "as for all others"
        await serve(calls, *made)
        counts = calls.queue.report().counts
        assert (counts.waited, counts.refused_full, counts.refused_late) == (5 + max_length, 1, 0)


async def test_patient_call_waits_longer_than_others_may() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1, queue={"max_wait": 0.02}) as calls:
        first = calls.call()
        await calls.settle()
        patient = await evaluate(calls)
        assert await ended(calls, calls.call()) == (429, "queue_timeout"), "which came later"
        assert calls.queue.report().oldest_wait >= 0.02
        await serve(calls, first, patient)
        assert calls.queue.report().length == 0


async def test_patient_call_waits_for_a_worker_to_be_there() -> None:
    async with fleet(ONE, queue=BRIEF) as calls:
        [worker] = calls.gateway.workers.all
        worker.mark("test", "down", "as the test wants it")
        patient = await evaluate(calls)
        assert await ended(calls, calls.call()) == (503, "queue_full")
        worker.clear("test")
        await calls.settle()
        await serve(calls, patient)


async def test_patient_call_is_refused_without_a_worker_if_no_call_may_wait_for_one() -> None:
    async with fleet(ONE, no_worker="refuse") as calls:
        [worker] = calls.gateway.workers.all
        worker.mark("test", "down", "as the test wants it")
        assert await ended(calls, await evaluate(calls)) == (503, "no_worker")


async def test_patient_call_that_chooses_in_vain_goes_on_waiting() -> None:
    async with fleet(ONE, plugins=(Doubts,), queue=BRIEF) as calls:
        [worker] = calls.gateway.workers.all
        worker.mark("doubt", "odd", "as the test wants it", blocks=False)
        patient = await evaluate(calls)
        for round_ in range(3):
            worker.mark("other", str(round_), "a reason to choose again", blocks=False)
            await calls.settle()
            assert await ended(calls, calls.call()) == (429, "queue_full")
        assert calls.queue.report().counts.waited == 1
        worker.clear("doubt")
        await calls.settle()
        await serve(calls, patient)


async def test_patient_call_stays_so_when_the_scope_changes() -> None:
    async with fleet(ONE, plugins=(Doubts,), queue=BRIEF) as calls:
        [worker] = calls.gateway.workers.all
        worker.mark("doubt", "odd", "as the test wants it", blocks=False)
        patient = await evaluate(calls)
        changed = {"patient_scope": "hurried", "queue": BRIEF}
        calls.queue.reconfigure(msgspec.convert(changed, Options))
        await calls.settle()
        assert await ended(calls, await evaluate(calls)) == (429, "queue_full")
        hurried = calls.call()
        await calls.settle()
        worker.clear("doubt")
        await calls.settle()
        calls.pool("one").answer_next()
        calls.pool("one").answer_next()
        await asyncio.gather(calls.running[patient], calls.running[hurried])
        assert (patient.caller.status, hurried.caller.status) == (200, 200)


@pytest.mark.parametrize(
    ("option", "scopes", "admitted"),
    [
        ("evaluator", "realtime", False),
        ("evaluator", "realtime evaluator", True),
        ("harness", "realtime evaluator", False),
        ("harness", "eval harness", True),
        (None, "realtime evaluator", False),
    ],
)
async def test_scope_of_patient_calls_is_an_option(
    option: str | None, scopes: str, *, admitted: bool
) -> None:
    queue = {"max_length": 0}
    async with fleet(ONE, max_in_flight_per_worker=1, queue=queue, patient_scope=option) as calls:
        calls.call()
        await calls.settle()
        made = await evaluate(calls, scopes)
        assert calls.running[made].done() is not admitted
        assert admitted or code_of(made) == (429, "queue_full")


async def test_patient_caller_that_leaves_frees_its_place() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1) as calls:
        first = calls.call()
        await calls.settle()
        gone, patient = await evaluate(calls), await evaluate(calls)
        calls.leave(gone)
        await calls.settle()
        assert calls.queue.report().length == 1
        await serve(calls, first, patient)
