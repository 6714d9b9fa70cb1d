"""Calls whose callers say how long they wait."""

from time import monotonic

from support.gateways.dispatching import code_of
from support.workers.holding_worker import fleet

from gateway import config

ONE = config.Worker(url="http://one", worker_id="one")


async def test_call_whose_turn_comes_after_its_deadline_is_refused_at_once() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1) as calls:
        calls.call()
        unknown = calls.call()
        unknown.deadline = monotonic()
        await calls.settle()
        assert calls.queue.report().length == 1  # no slot has come free: there is no estimate
        calls.pool("one").answer_next()
        await calls.settle()
        late, early, endless = (calls.call() for _ in range(3))
        late.deadline, early.deadline = monotonic(), monotonic() + 1_000
        await calls.settle()
        assert code_of(late) == (429, "queue_timeout")
        assert calls.queue.report().counts.refused_late == 1
        assert calls.queue.report().length == 2
        for _ in range(3):
            calls.pool("one").answer_next()
            await calls.settle()
        assert [one.caller.status for one in (unknown, early, endless)] == [200] * 3
