"""Calls above a key's concurrent calls that wait for one of its own to end."""

import asyncio
from functools import partial

import httpx
import pytest
from gateway_plugins.limits import Limits
from gateway_plugins.limits.options import KeyLimits, Options
from gateway_plugins.limits.refusing import LimitReached, too_fast, too_many_at_once
from gateway_plugins.limits.waiting.lines import Lines, Patience
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plugins.recording_plugin import until

from gateway.config import PluginEntry
from gateway.testing import (
    MESSAGES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
)

BODY = {"messages": [dict(one) for one in MESSAGES]}
PATIENCE = Patience(calls=100, seconds=600.0, limit=2)


class Gate:
    """A worker that answers each call once it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Semaphore(0)
        self.worker = ScriptedWorker(self._serve)

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            self.begun += 1
            await self.go.acquire()
            await connection.write(answer_of(b"{}"))


def limits(**default: object) -> PluginEntry:
    return entry("limits", default={"concurrent": 1, **default})


def begin(live: Live) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(live.client.post("/v1/chat/completions", json=BODY))


def waiting(live: Live) -> int:
    return len(live.plugin(Limits)._lines)


async def test_call_above_the_limit_waits_for_one_of_its_key_to_end(
    gateway_for: GatewayFor,
) -> None:
    gate = Gate()
    async with gate.worker:
        live = await gateway_for(limits(max_waiting=5), workers=[gate.worker.url])
        calls = [begin(live) for _ in range(4)]
        await until(lambda: waiting(live) == 3 and gate.begun == 1)
        for ended in range(1, 5):
            gate.go.release()
            await until(lambda: gate.begun == min(ended + 1, 4))  # noqa: B023
        assert [(await call).status_code for call in calls] == [200] * 4
        assert waiting(live) == 0


async def test_call_is_rejected_if_the_line_is_full_or_takes_too_long(
    gateway_for: GatewayFor,
) -> None:
    gate = Gate()
    async with gate.worker:
        settings = limits(max_waiting=1, max_wait=0.2)
        live = await gateway_for(settings, workers=[gate.worker.url])
        first = begin(live)
        await until(lambda: gate.begun == 1)
        late = begin(live)
        await until(lambda: waiting(live) == 1)
        for refused in (await begin(live), await late):
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                429,
                "concurrent_calls",
            )
        gate.go.release()
        assert (await first).status_code == 200


async def test_caller_that_leaves_frees_its_place_in_the_line(gateway_for: GatewayFor) -> None:
    gate = Gate()
    async with gate.worker:
        live = await gateway_for(limits(max_waiting=2), workers=[gate.worker.url])
        first = begin(live)
        await until(lambda: gate.begun == 1)
        gone = begin(live)
        await until(lambda: waiting(live) == 1)
        second = begin(live)
        await until(lambda: waiting(live) == 2)
        gone.cancel()
        await until(lambda: waiting(live) == 1)
        gate.go.release()
        gate.go.release()
        assert [(await one).status_code for one in (first, second)] == [200, 200]


async def test_call_waits_for_one_that_began_before_a_reload_let_calls_wait(
    gateway_for: GatewayFor,
) -> None:
    gate = Gate()
    async with gate.worker:
        live = await gateway_for(limits(), workers=[gate.worker.url])
        first = begin(live)
        await until(lambda: gate.begun == 1)
        patient = KeyLimits(concurrent=1, max_waiting=2)
        live.plugin(Limits).reconfigure(Options(default=patient))
        second = begin(live)
        await until(lambda: waiting(live) == 1)
        gate.go.release()
        await until(lambda: gate.begun == 2)
        gate.go.release()
        assert [(await one).status_code for one in (first, second)] == [200, 200]


async def test_waiting_call_follows_a_reload_of_its_limits(gateway_for: GatewayFor) -> None:
    gate = Gate()
    async with gate.worker:
        live = await gateway_for(limits(max_waiting=2), workers=[gate.worker.url])
        calls = [begin(live) for _ in range(3)]
        await until(lambda: waiting(live) == 2)
        more = KeyLimits(concurrent=3, max_waiting=2)
        live.plugin(Limits).reconfigure(Options(default=more))
        await until(lambda: gate.begun == 3)
        for _ in calls:
            gate.go.release()
        await asyncio.gather(*calls)


async def test_key_that_may_not_wait_is_rejected_at_once(gateway_for: GatewayFor) -> None:
    gate = Gate()
    async with gate.worker:
        live = await gateway_for(limits(), workers=[gate.worker.url])
        first = begin(live)
        await until(lambda: gate.begun == 1)
        assert (await begin(live)).status_code == 429
        gate.go.release()
        await first


async def test_waiting_call_is_rejected_for_another_limit_once_it_is_its_turn() -> None:
    lines = Lines()
    answers = [too_many_at_once(1), too_fast("requests_per_minute", 1, 1.0)]

    def attempt() -> None:
        raise answers.pop(0)

    waiting = asyncio.create_task(lines.enter("k", PATIENCE, attempt))
    await asyncio.sleep(0)
    lines.freed("k")
    with pytest.raises(LimitReached) as refused:
        await waiting
    assert refused.value.name == "requests_per_minute"
    assert len(lines) == 0


@pytest.mark.parametrize(
    ("calls", "count", "parts"), [(10, 4, [3, 3, 2, 2]), (2, 4, [1, 1, 1, 1]), (7, 1, [7])]
)
def test_places_in_the_line_are_divided_among_processes(
    calls: int, count: int, parts: list[int]
) -> None:
    patience = PATIENCE._replace(calls=calls)
    assert [patience.part_of(index, count).calls for index in range(count)] == parts


class Slots:
    """Two slots, and the calls that have got one, in order."""

    def __init__(self) -> None:
        self.lines = Lines()
        self.free = PATIENCE.limit
        self.got: list[int] = []

    def attempt(self, number: int) -> None:
        if not self.free:
            raise too_many_at_once(PATIENCE.limit)
        self.free -= 1
        self.got.append(number)

    def end(self) -> None:
        if self.free < PATIENCE.limit:
            self.free += 1
            self.lines.freed("k")


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["call", "call", "end", "leave", "turn"]), max_size=40))
def test_calls_get_slots_in_order_and_none_waits_beside_a_free_one(events: list[str]) -> None:
    asyncio.run(_any_order(events))


async def _any_order(events: list[str]) -> None:
    slots, made = Slots(), list[asyncio.Task[None]]()
    for event in events:
        if event == "call":
            attempt = partial(slots.attempt, len(made))
            made.append(asyncio.create_task(slots.lines.enter("k", PATIENCE, attempt)))
        elif event == "end":
            slots.end()
        elif event == "leave" and made:
            made[-1].cancel()
        else:
            await asyncio.sleep(0)
    for _ in range(3 * len(made) + 3):
        await asyncio.sleep(0)
    waiting = [one for one in made if not one.done()]
    assert slots.got == sorted(slots.got)
    assert len(slots.lines) == len(waiting)
    assert not (slots.free and waiting), "a slot is free, and somebody waits for it"
    for one in waiting:
        one.cancel()
    await asyncio.gather(*made, return_exceptions=True)
    assert len(slots.lines) == 0
