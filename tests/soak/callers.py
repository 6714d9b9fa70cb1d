"""The callers, in a process of their own: each asks, reads, and asks again.

Standard input says how many there are to be, a JSON line each time; its end is theirs, once what
they have asked is answered. Standard output has Facts.
"""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import uvloop
from accounting.load import verdict_of
from accounting.tap import CHUNK, Reading, Said

from soak.calls import CALLERS, Ask, Inventing
from soak.facts import Deleted, Looked
from soak.hearing import heard, text_of
from soak.plan import Plan
from soak.telling import Tell, telling

PATIENCE = 90.0
"""Seconds after which a call without an end has hung."""

SESSIONS = 0.25
"""Of what a caller does; so many that whatever remembers some of them has soon seen more."""

TURNS = 8
"""Of a session, at most."""


class Crowd(msgspec.Struct, frozen=True):
    """So many callers, and so many who hold a stream on which little comes."""

    callers: int = 0
    idle: int = 0


class Line:
    """A caller's connection, kept while it can be."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, ask: Ask, said: Said) -> bool:
        """Whether the caller left before the end of its answer, or of the connection."""
        kept = self._streams is not None
        gone = await self._try(ask, said)
        if kept and not gone and not said.status:
            # It was closed for its age just when the call was sent; clients try anew.
            self.drop()
            gone = await self._try(ask, said)
        if gone or not said.whole or said.headers.get(b"connection") == b"close":
            self.drop()
        return gone

    async def _try(self, ask: Ask, said: Said) -> bool:
        try:
            async with asyncio.timeout(ask.leaves_after):
                return await self._exchange(ask, said)
        except TimeoutError:
            return not said.whole
        except ConnectionError:
            return False

    def drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _exchange(self, ask: Ask, said: Said) -> bool:
        reader, writer = await self._open()
        writer.write(ask.head() + ask.body)
        await writer.drain()
        reading = Reading(deque([said]))
        while not said.whole and (data := await reader.read(CHUNK)):
            reading.feed(data)
            if not said.whole and ask.leaves_at is not None and len(said.body) >= ask.leaves_at:
                return True
        return False

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.drop()
            self._streams = await asyncio.open_connection(*self._address)
        return self._streams


class Callers:
    """As many as the latest Crowd says."""

    def __init__(self, plan: Plan, address: tuple[str, int], tell: Tell) -> None:
        self._plan = plan
        self._address = address
        self._tell = tell
        self._inventing = Inventing(plan.seed)
        self._chance = self._inventing.chance
        self._crowd = Crowd()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._sessions = 0
        self._next = 0.0

    def become(self, crowd: Crowd) -> None:
        """Others come at once; who is too many goes after its call, or leaves its stream now."""
        self._crowd = crowd
        for number in range(crowd.callers):
            self._begin("caller", number, self._call)
        for number in range(crowd.idle):
            self._begin("idle", number, self._hold)
        if crowd.callers:
            self._begin("stranger", 0, self._guess)
        for (kind, number), task in self._tasks.items():
            if kind == "idle" and number >= crowd.idle:
                task.cancel()

    async def finish(self) -> None:
        self.become(Crowd())
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def _begin(self, kind: str, number: int, what: Callable[[int], Awaitable[None]]) -> None:
        if (kind, number) in self._tasks:
            return
        task = asyncio.ensure_future(what(number))
        self._tasks[kind, number] = task
        task.add_done_callback(lambda _: self._tasks.pop((kind, number)))

    async def _call(self, number: int) -> None:
        async with self._line() as line:
            while number < self._crowd.callers:
                if self._chance.random() < SESSIONS:
                    await self._talk(line)
                else:
                    await self._ask(line, self._inventing.single())
                if self._chance.random() < 0.02:
                    line.drop()

    async def _hold(self, number: int) -> None:
        async with self._line() as line:
            while number < self._crowd.idle:
                await self._ask(line, self._inventing.idle(self._plan.idle_pause))

    async def _guess(self, number: int) -> None:
        """A stranger, who is answered the more slowly the oftener it asks."""
        async with self._line() as line:
            while self._crowd.callers:
                await self._ask(line, self._inventing.stranger())
                await asyncio.sleep(1.0)

    async def _talk(self, line: Line) -> None:
        """A session of some turns; one in ten is deleted then, and one in ten is read."""
        self._sessions += 1
        session, key = f"s-{self._plan.seed}-{self._sessions}", self._chance.choice(CALLERS)
        messages = [self._inventing.said("system")]
        for _ in range(self._chance.randint(1, TURNS)):
            messages.append(self._inventing.said("user"))
            said = await self._ask(line, self._inventing.turn(session, key, messages))
            messages.append({"role": "assistant", "content": text_of(said)})
        match self._chance.random():
            case roll if roll < 0.1:
                self._tell(Deleted(session))
                await self._look(line, "DELETE", f"/sessions/{session}", key)
            case roll if roll < 0.15:
                await self._look(line, "GET", f"/sessions/{session}/traces", key)
            case roll if roll < 0.2:
                await self._look(line, "GET", f"/sessions/{session}/trajectories", key)

    async def _ask(self, line: Line, ask: Ask) -> Said:
        await self._turn()
        said = Said()
        try:
            async with asyncio.timeout(PATIENCE):
                gone = await line.ask(ask, said)
        except asyncio.CancelledError:
            self._tell(heard(ask, said, "left"))
            raise
        verdict = verdict_of(said, gone=gone, doomed=False)
        assert verdict != "killed"
        self._tell(heard(ask, said, verdict))
        return said

    async def _look(self, line: Line, method: str, path: str, key: str) -> None:
        said = Said()
        await line.ask(Ask(call_id="look", key=key, path=path, method=method), said)
        what = f"{method} {path.replace(path.split('/')[2], 'ID', 1)}"
        self._tell(Looked(what, said.status if said.whole else 0))

    async def _turn(self) -> None:
        """Wait until the rate allows another call."""
        if self._plan.rate:
            now = asyncio.get_running_loop().time()
            self._next = max(self._next + 1 / self._plan.rate, now - 1)
            await asyncio.sleep(self._next - now)

    @contextlib.asynccontextmanager
    async def _line(self) -> AsyncIterator[Line]:
        line = Line(*self._address)
        try:
            yield line
        finally:
            line.drop()


async def run(plan: Plan, address: tuple[str, int]) -> None:
    async with telling() as tell:
        callers = Callers(plan, address, tell)
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            callers.become(msgspec.json.decode(line, type=Crowd))
        await callers.finish()


if __name__ == "__main__":
    uvloop.run(run(*msgspec.json.decode(sys.argv[1], type=tuple[Plan, tuple[str, int]])))
