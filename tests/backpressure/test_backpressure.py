"""Limits, and the queue in front of them: who gets what comes free, what others are told."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from support.gateways.dispatching import code_of
from support.workers.holding_worker import Fleet, fleet

from gateway import Worker, config, get_header, hookimpl
from gateway.testing import RecordedCall

ONE = config.Worker(url="http://one", worker_id="one")
TWO = config.Worker(url="http://two", worker_id="two")


class Last:
    """Another plugin that always wants the last worker."""

    @hookimpl
    async def pick_worker(self, workers: Sequence[Worker]) -> Worker:
        return workers[-1]


class Trickle:
    """Another plugin that lets one call at a time go to the first worker, for its own reasons."""

    @hookimpl
    async def filter_workers(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        return [one for one in workers if one.id != "one" or not one.in_flight]


class Doubts:
    """Another plugin that leaves out whom the test doubts, and takes its time over it."""

    @hookimpl
    async def filter_workers(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        trusted = [one for one in workers if "doubt" not in one.conditions]
        await asyncio.sleep(0)
        return trusted


async def served(calls: Fleet) -> list[RecordedCall]:
    """The calls, in the order in which they are answered when each worker answers in turn."""
    order: list[RecordedCall] = []
    while alive := [call for call, task in calls.running.items() if not task.done()]:
        for worker in calls.undecided():
            calls.pool(worker.id).answer_next()
        await calls.settle()
        order += [call for call in alive if calls.running[call].done()]
    return order


def retry_after(call: RecordedCall) -> int:
    return int(get_header(call.caller.headers, b"retry-after") or 0)


async def test_queue_keeps_a_worker_within_its_limit() -> None:
    async with fleet(ONE, max_in_flight_per_worker=2) as calls:
        made = [calls.call() for _ in range(5)]
        await calls.settle()
        assert calls.pool("one").undecided == 2
        assert calls.queue.report().length == 3
        assert await served(calls) == made
        assert [call.caller.status for call in made] == [200] * 5
        assert calls.queue.report().length == 0


async def test_queue_respects_a_per_worker_limit() -> None:
    own = {"one": 1, "two": None}
    async with fleet(
        ONE, TWO, max_in_flight_per_worker=3, max_in_flight_by_worker=own, max_in_flight=6
    ) as calls:
        for _ in range(9):
            calls.call()
        await calls.settle()
        held = {worker.id: count for worker, count in calls.undecided().items()}
        assert held == {"one": 1, "two": 5}
        await served(calls)
        assert calls.gateway.workers.slots.used == 0


async def test_queue_holds_no_call_while_a_worker_has_room() -> None:
    """Where TRL's gateway answers 429 because the two workers that it looked at are full."""
    workers = [config.Worker(url=f"http://{at}", worker_id=f"{at}") for at in range(3)]
    async with fleet(
        *workers, plugins=(Last,), max_in_flight_per_worker=1, queue={"max_length": 0}
    ) as calls:
        made = [calls.call() for _ in range(3)]
        await calls.settle()
        assert list(calls.undecided().values()) == [1, 1, 1]
        await served(calls)
        assert [call.caller.status for call in made] == [200] * 3


async def test_queued_call_chooses_among_all_workers_under_an_overall_limit() -> None:
    async with fleet(ONE, TWO, plugins=(Last,), max_in_flight=1) as calls:
        for _ in range(3):
            calls.call()
            await calls.settle()
            assert [worker.id for worker in calls.undecided()] == ["two"]
        await served(calls)
        assert {call.attempts[0].worker.id for call in calls.running} == {"two"}


async def test_queue_serves_the_principal_with_fewest_calls_in_flight_first() -> None:
    async with fleet(ONE, max_in_flight_per_worker=2) as calls:
        busy = [calls.call(x_principal="busy") for _ in range(5)]
        await calls.settle()
        other = [calls.call(x_principal="other") for _ in range(2)]
        await calls.settle()
        assert await served(calls) == [*busy[:2], other[0], busy[2], other[1], *busy[3:]]


async def test_queue_serves_the_session_with_fewest_calls_in_flight_first() -> None:
    async with fleet(ONE, max_in_flight_per_worker=2) as calls:
        busy = [calls.call(session="busy") for _ in range(5)]
        await calls.settle()
        other = [calls.call(session="other") for _ in range(2)]
        await calls.settle()
        assert await served(calls) == [*busy[:2], other[0], busy[2], other[1], *busy[3:]]


async def test_queue_serves_a_higher_priority_first() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1, priority_scope="hurried") as calls:
        first = calls.call()
        await calls.settle()
        low, none, high, higher = (
            calls.call(**headers)
            for headers in ({"x_priority": "-1"}, {}, {"x_priority": "+5"}, {"x_priority": "10"})
        )
        await calls.settle()
        assert calls.queue.report().by_priority == {"-1": 1, "0": 1, "5": 1, "10": 1}
        assert await served(calls) == [first, higher, high, none, low]


@pytest.mark.parametrize(
    ("allowed", "counts"),
    [
        ({}, False),
        ({"priority_scope": "other"}, False),
        ({"priority_ids": ["other"]}, False),
        ({"priority_ids": ["me"]}, True),
        ({"priority_for_all": True}, True),
    ],
)
async def test_queue_respects_priorities_only_of_allowed_principals(
    allowed: Mapping[str, Any], counts: bool
) -> None:
    async with fleet(ONE, max_in_flight_per_worker=1, **allowed) as calls:
        first, second = calls.call(x_principal="me"), calls.call(x_principal="me")
        await calls.settle()
        third = calls.call(x_principal="me", x_priority="1")
        await calls.settle()
        assert await served(calls) == [first, *((third, second) if counts else (second, third))]


@pytest.mark.parametrize("given", ["high", "1001", "-99999", "1_0", "٣", ""])
async def test_queue_rejects_an_invalid_priority(given: str) -> None:
    async with fleet(ONE, priority_for_all=True) as calls:
        call = calls.call(x_priority=given.encode().decode("latin-1"))
        await calls.settle()
        assert code_of(call) == (400, "invalid_priority")


async def test_queue_gives_a_free_slot_to_the_first_call_that_can_use_it() -> None:
    a = config.Worker(url="http://a", worker_id="a", models=("a",))
    b = config.Worker(url="http://b", worker_id="b", models=("b",))
    async with fleet(a, b, max_in_flight_per_worker=1) as calls:
        for model in "ab":
            calls.call(model=model)
        await calls.settle()
        first, second = calls.call(model="a"), calls.call(model="b")
        await calls.settle()
        calls.pool("b").answer_next()
        await calls.settle()
        assert [len(first.attempts), len(second.attempts)] == [0, 1]
        await served(calls)


@pytest.mark.parametrize("status", [429, 503])
async def test_full_queue_rejects_a_call(status: int) -> None:
    async with fleet(
        ONE, max_in_flight_per_worker=1, queue={"max_length": 1, "max_wait": 7}, status=status
    ) as calls:
        made = [calls.call() for _ in range(3)]
        await calls.settle()
        assert code_of(made[2]) == (status, "queue_full")
        assert retry_after(made[2]) == 7
        assert calls.queue.report().counts.refused_full == 1
        assert await served(calls) == made[:2]


async def test_queue_rejects_a_call_after_its_wait_timeout() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1, queue={"max_wait": 0.01}) as calls:
        calls.call()
        await calls.settle()
        late = calls.call()
        await calls.running[late]
        assert code_of(late) == (429, "queue_timeout")
        assert calls.queue.report().counts.refused_late == 1
        assert calls.queue.report().length == 0
        await served(calls)


@pytest.mark.parametrize("limit", ["max_in_flight_per_worker", "max_in_flight"])
async def test_new_call_takes_no_slot_promised_to_a_queued_one(limit: str) -> None:
    async with fleet(ONE, **dict[str, Any]({limit: 1})) as calls:
        calls.call()
        second = calls.call()
        await calls.settle()
        calls.pool("one").answer_next()
        while not calls.queue.report().promised:  # noqa: ASYNC110  it lasts for a turn or two
            await asyncio.sleep(0)
        third = calls.call()
        assert await served(calls) == [second, third]


async def test_promised_slot_passes_on_if_its_caller_disconnects() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1) as calls:
        calls.call()
        await calls.settle()
        leaving, next_one = calls.call(), calls.call()
        await calls.settle()
        calls.pool("one").answer_next()
        while not calls.queue.report().promised:  # noqa: ASYNC110  it lasts for a turn or two
            await asyncio.sleep(0)
        calls.leave(leaving)
        await calls.settle()
        assert leaving.outcome.caller_gone
        assert await served(calls) == [next_one]
        assert calls.queue.report().counts.left == 1


async def test_added_or_recovered_worker_takes_queued_calls() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1) as calls:
        for _ in range(4):
            calls.call()
        await calls.settle()
        two = calls.add(TWO)
        await calls.settle()
        assert calls.pool("two").undecided == 1
        two.mark("test", "down", "as the test wants it")
        calls.pool("two").answer_next()
        await calls.settle()
        assert calls.pool("two").undecided == 0
        two.clear("test")
        await calls.settle()
        assert calls.pool("two").undecided == 1
        await served(calls)


async def test_queue_holds_calls_while_no_worker_is_fit() -> None:
    async with fleet(ONE) as calls:
        [one] = calls.gateway.workers.all
        one.mark("test", "down", "as the test wants it")
        calls.call()
        await calls.settle()
        assert calls.queue.report().length == 1
        one.clear("test")
        await calls.settle()
        assert [call.caller.status for call in await served(calls)] == [200]


async def test_queue_rejects_calls_without_a_fit_worker_if_configured() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1, no_worker="refuse") as calls:
        [one] = calls.gateway.workers.all
        calls.call()
        await calls.settle()
        waiting = calls.call()
        await calls.settle()
        one.mark("test", "down", "as the test wants it")
        refused = calls.call()
        await calls.settle()
        assert code_of(waiting) == code_of(refused) == (503, "no_worker")
        await served(calls)


async def test_queue_retries_calls_filtered_out_by_another_plugin() -> None:
    async with fleet(ONE, plugins=(Trickle,), max_in_flight_per_worker=9) as calls:
        made = [calls.call() for _ in range(4)]
        await calls.settle()
        assert calls.pool("one").undecided == 1
        assert await served(calls) == made


async def test_queue_retries_filtered_calls_if_a_worker_changes() -> None:
    async with fleet(ONE, TWO, plugins=(Doubts,), max_in_flight_per_worker=1) as calls:
        [one, _] = calls.gateway.workers.all
        one.mark("doubt", "doubted", "as the test wants it", blocks=False)
        calls.call()
        calls.call()
        await calls.settle()
        assert [calls.pool("one").undecided, calls.queue.report().length] == [0, 1]
        one.clear("doubt")
        await calls.settle()
        assert [calls.pool("one").undecided, calls.queue.report().length] == [1, 0]
        await served(calls)


async def test_queue_notices_a_recovery_during_a_filter_of_another_plugin() -> None:
    async with fleet(ONE, TWO, plugins=(Doubts,), max_in_flight_per_worker=1) as calls:
        [one, _] = calls.gateway.workers.all
        one.mark("test", "down", "as the test wants it")
        calls.call()
        await calls.settle()
        calls.call()
        await asyncio.sleep(0)
        one.clear("test")
        await calls.settle()
        assert calls.pool("one").undecided == 1
        await served(calls)


async def test_rejected_call_keeps_its_place_in_the_queue() -> None:
    async with fleet(ONE, TWO, max_in_flight_per_worker=1) as calls:
        first, _ = calls.call(), calls.call()
        await calls.settle()
        waiting = calls.call()
        await calls.settle()
        calls.pool(first.attempts[0].worker.id).refuse_next()
        await calls.settle()
        order = await served(calls)
        assert [attempt.status for attempt in first.attempts] == [503, 200]
        assert set(order) == set(calls.running)
        assert waiting.attempts[0].worker is first.attempts[0].worker


async def test_changed_limits_apply_to_queued_calls_at_once() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1) as calls:
        made = [calls.call() for _ in range(4)]
        await calls.settle()
        calls.queue.reconfigure(calls.queue.Config(max_in_flight_per_worker=3))
        await calls.settle()
        assert calls.pool("one").undecided == 3
        calls.queue.reconfigure(calls.queue.Config(max_in_flight_per_worker=1))
        for _ in range(2):
            calls.pool("one").answer_next()
            await calls.settle()
            assert calls.queue.report().length == 1
        assert set(await served(calls)) == set(made[2:])


async def test_backpressure_removes_its_limits_at_shutdown() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1, max_in_flight=1) as calls:
        workers = calls.gateway.workers
        assert [workers.slots.limit, workers.all[0].slots.limit] == [1, 1]
    assert [workers.slots.limit, workers.all[0].slots.limit] == [None, None]
    assert workers.freed == []
