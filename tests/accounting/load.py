"""Callers, each with one call at a time, until all are made."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from time import monotonic
from typing import Protocol

from support.gateways.serving_process import Process

from accounting.calls import Ask, Asked, Inventing, Verdict
from accounting.tap import CHUNK, Reading, Said

PATIENCE = 60.0
"""Seconds after which a call without an end has hung."""


NOTICED = 2.0
"""Seconds in which a gateway is sure to have in its books what its caller did not wait for: that
this one has left, or that the answer was broken off."""


class Serving(Protocol):
    """`live` are the gateways that can be asked now."""

    live: list[Process]


class Load:
    """Callers of all gateways; `asked` are the calls that are over.

    `answered` is told at once where a caller has just read the last byte of an answer.
    """

    def __init__(self, gateways: Serving, seed: int) -> None:
        self.asked: list[Asked] = []
        self.answered: Callable[[Process], None] = lambda process: None
        self._gateways = gateways
        self._inventing = Inventing(seed)
        self._chance = Random(f"load {seed}")
        self._running: dict[str, Process] = {}
        self._doomed: set[str] = set()
        self._early: list[tuple[float, Process, Asked]] = []

    async def run(self, calls: int, callers: int) -> None:
        left = iter(range(calls))
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._call(left))

    def doom(self, process: Process) -> None:
        """It is killed now."""
        self._doomed |= {call_id for call_id, by in self._running.items() if by is process}
        since = monotonic() - NOTICED
        for when, by, asked in self._early:
            asked.doomed |= by is process and when > since

    async def _call(self, left: Iterator[int]) -> None:
        for _ in left:
            ask = self._inventing.next()
            process = self._chance.choice(self._gateways.live)
            self._running[ask.call_id] = process
            said = Said()
            async with asyncio.timeout(PATIENCE):
                gone = await _ask(ask, process, said)
            del self._running[ask.call_id]
            doomed = ask.call_id in self._doomed
            verdict = verdict_of(said, gone=gone, doomed=doomed)
            asked = Asked(ask, said, verdict, doomed)
            self.asked.append(asked)
            if verdict in ("left", "broken"):
                self._early.append((monotonic(), process, asked))
            if verdict == "whole":
                self.answered(process)


async def _ask(ask: Ask, process: Process, said: Said) -> bool:
    """Whether the caller left before the end of its answer, or of the connection."""
    try:
        async with asyncio.timeout(ask.leaves_after):
            return await _read(ask, process, said)
    except TimeoutError:
        return not said.whole
    except ConnectionError:
        return False


async def _read(ask: Ask, process: Process, said: Said) -> bool:
    reader, writer = await asyncio.open_connection(*process.address)
    try:
        writer.write(ask.head() + ask.body)
        reading = Reading(deque([said]))
        while not said.whole and (data := await reader.read(CHUNK)):
            reading.feed(data)
            if not said.whole and ask.leaves_at is not None and len(said.body) >= ask.leaves_at:
                return True
        return False
    finally:
        writer.transport.abort()


def verdict_of(said: Said, *, gone: bool, doomed: bool) -> Verdict:
    if said.whole:
        if said.status != 200:
            return "error"
        return "broken" if b"event: error\n" in said.body else "whole"
    if gone:
        return "left"
    return "killed" if doomed else "broken"
