"""Callers of a gateway, each with sessions of its own, through the deaths of the engine."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from random import Random

import msgspec
from accounting.tap import CHUNK, Reading, Said
from trace_capture.tapped.asks import Ask, Inventing
from trace_capture.tapped.heard import text_of

PATIENCE = 1200.0
"""Seconds after which a call without an end has hung."""

PREFIXES = ("chatcmpl-", "cmpl-", "generate-tokens-", "")
SEVERAL = ("", "-0", "-1", "-2")
"""How an engine makes ids of its own of those of calls, and of the prompts of one."""

Abort = Callable[[list[str]], Awaitable[None]]


class Asked(msgspec.Struct):
    """How a call went for its caller. `left`: it went before the end of the answer. `doomed`: it
    ran when the engine was killed."""

    ask: Ask
    said: Said
    left: bool = False
    doomed: bool = False
    aborted: bool = False


class Load:
    """`made` are the calls that have begun; they begin only while `up` is set."""

    def __init__(self, address: tuple[str, int], inventing: Inventing, seed: int) -> None:
        self.made: list[Asked] = []
        self.up = asyncio.Event()
        self.up.set()
        self._address = address
        self._inventing = inventing
        self._chance = Random(f"load {seed}")
        self._running: list[Asked] = []

    async def run(self, calls: int, callers: int, abort: Abort) -> None:
        left = iter(range(calls))
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._converse(left, abort))

    def doom(self) -> None:
        """The engine is killed now."""
        self.up.clear()
        for asked in self._running:
            asked.doomed = True

    async def _converse(self, left: Iterator[int], abort: Abort) -> None:
        session, said = self._inventing.session(), [self._words()]
        for _ in left:
            await self.up.wait()
            asked = Asked(self._inventing.next(session, said), Said())
            self.made.append(asked)
            self._running.append(asked)
            async with asyncio.timeout(PATIENCE):
                await self._ask(asked, abort)
            self._running.remove(asked)
            answer = text_of(asked.ask.api, asked.said)
            said += [answer or "nothing", self._words()]
            if len(said) > 8 or self._chance.random() < 0.2:
                session, said = self._inventing.session(), [self._words()]

    def _words(self) -> str:
        return f"And harbour {self._chance.randrange(1000)}?"

    async def _ask(self, asked: Asked, abort: Abort) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(asked.ask.head_and_body())
            reading = asyncio.create_task(_read(reader, asked.said))
            if asked.ask.end != "whole":
                await _moment(asked, reading)
                if asked.ask.end == "leaves" and not reading.done():
                    asked.left = True
                    reading.cancel()
                elif asked.ask.end == "aborted":
                    asked.aborted = True
                    await abort(_ids_of(asked.ask.call_id))
            await asyncio.wait((reading,))
        finally:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader, said: Said) -> None:
    reading = Reading(deque([said]))
    try:
        while not said.whole and (data := await reader.read(CHUNK)):
            reading.feed(data)
    except ConnectionError:
        return


async def _moment(asked: Asked, reading: asyncio.Task[None]) -> None:
    """Wait until the caller leaves, or the engine is told to abort, or all has been said."""
    ask, loop = asked.ask, asyncio.get_running_loop()
    ends = loop.time() + (ask.seconds or 0)
    while not reading.done() and loop.time() < ends:
        if ask.length is not None and len(asked.said.body) >= ask.length:
            return
        await asyncio.wait((reading,), timeout=0.005)


def _ids_of(call_id: str) -> list[str]:
    return [f"{prefix}{call_id}{number}" for prefix in PREFIXES for number in SEVERAL]
