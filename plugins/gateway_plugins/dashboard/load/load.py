"""Adds up what all processes have counted, and looks at the queue from time to time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import msgspec

from gateway import Host, Outcome, StorageError, Topic
from gateway_plugins.dashboard.load.calls import AllCalls
from gateway_plugins.dashboard.load.minutes import Minute, Minutes

COUNTED = Topic("dashboard", "minutes")
"""Name under which a process asks the others for their minutes."""

LOOK = 10.0
"""Seconds between two looks at the calls in flight."""

LOOK_AT_QUEUE = 6
"""Looks at the calls in flight for each look at the queue, which is in the database."""


class ShownLoad(msgspec.Struct, frozen=True):
    """What all processes did. `minutes`: the oldest first. `has_queue`: a plugin has one.

    `in_flight` are calls by source. The times are Unix seconds, None: there was none: of the latest
    attempts that began, went well and failed, and of the latest realtime call that ended.
    """

    minutes: Sequence[Minute]
    has_queue: bool
    in_flight: Mapping[str, int]
    requested_at: float | None
    succeeded_at: float | None
    failed_at: float | None
    realtime_at: float | None


class Load:
    """The load of one gateway."""

    def __init__(self, gateway: Host, calls: AllCalls) -> None:
        self._gateway = gateway
        self._calls = calls
        self._minutes = Minutes()

    def ended(self, outcome: Outcome) -> None:
        """Count a call that has ended."""
        self._minutes.ended(outcome)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at the calls and the queue between entry and exit, and answer other processes."""
        self._calls.join()
        self._gateway.peers.handle(COUNTED, self._tell)
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def show(self) -> ShownLoad:
        """Return what all processes have counted."""
        calls, said = await asyncio.gather(self._calls.now(), self._gateway.peers.request(COUNTED))
        others = [msgspec.msgpack.decode(one, type=list[Minute]) for one in said]
        has_queue = any(
            hook.run(self._gateway) is not None for hook in self._gateway.hooks("work_queue")
        )
        return ShownLoad(
            merged([self._minutes.latest(), *others]),
            has_queue,
            calls.sources,
            calls.requested,
            calls.succeeded,
            calls.failed,
            calls.realtime,
        )

    async def _tell(self, _: bytes) -> bytes:
        return msgspec.msgpack.encode(self._minutes.latest())

    async def _look(self) -> None:
        """Look at the calls; at the queue in one process only, as it is the same for all."""
        looks = 0
        while True:
            self._minutes.saw(len(self._gateway.calls_in_flight))
            # The queue can be used once all plugins have started, so not at the first look.
            if looks % LOOK_AT_QUEUE == 1 and self._gateway.peers.index == 0:
                await self._look_at_queue()
            looks += 1
            await asyncio.sleep(LOOK)

    async def _look_at_queue(self) -> None:
        try:
            found = await depth(self._gateway)
        except StorageError:
            return  # /health says that the database cannot be read
        if found is not None:
            self._minutes.saw_queue(found.queued, found.running)


class Depth(msgspec.Struct, frozen=True):
    """How many items of the queue wait, and run."""

    queued: int
    running: int


async def depth(gateway: Host) -> Depth | None:
    """Return how long the queue is, None if no plugin has one. Raises StorageError."""
    for hook in gateway.hooks("work_queue"):
        queue = hook.run(gateway)
        if queue is not None:
            found = (await queue.backlog()).values()
            return Depth(sum(one.queued for one in found), sum(one.running for one in found))
    return None


def merged(several: Iterable[Sequence[Minute]]) -> list[Minute]:
    """Add up minutes of several processes; the queue is the same for all of them."""
    found: dict[int, Minute] = {}
    for minutes in several:
        for one in minutes:
            _add(found.setdefault(one.number, Minute(one.number)), one)
    return [found[number] for number in sorted(found)]


def _add(to: Minute, one: Minute) -> None:
    to.successes += one.successes
    to.errors += one.errors
    to.aborts += one.aborts
    to.in_flight += one.in_flight
    if one.queued is not None:
        to.queued, to.running = one.queued, one.running
