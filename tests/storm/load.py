"""Callers: so many calls a second whatever becomes of them, each with an id of its own."""

import asyncio
import random

import msgspec
from support.callers.raw_client import CutShort, RawAnswer, RawClient

from gateway.testing import MESSAGES
from storm.ledger import Ledger, Verdict, code_of, verdict_of

PATIENCE = 30.0
"""Seconds after which a call without an answer is lost."""

KEPT = 2.0
"""Seconds for which a connection is used again; the gateway keeps it for longer."""

LEAVES = 0.02
"""Share of the callers who go away before long."""

STEP = 0.005
NO_ANSWER = RawAnswer(0, [])
BODIES = {
    stream: msgspec.json.encode({"stream": stream, "messages": [dict(one) for one in MESSAGES]})
    for stream in (False, True)
}


class Callers:
    """Open-loop load on the gateway at `address`, by `sessions` agents.

    `phase` is what latencies are noted under, of calls that one of the `steady` workers served and
    no other was asked.
    """

    def __init__(
        self, address: tuple[str, int], ledger: Ledger, sessions: int, steady: set[bytes], seed: int
    ) -> None:
        self.phase = ""
        self._address = address
        self._ledger = ledger
        self._sessions = sessions
        self._steady = steady
        self._random = random.Random(seed)
        self._seed = seed
        self._count = 0
        self._idle: list[tuple[float, RawClient]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def call(self, seconds: float, rate: float) -> None:
        """Begin `rate` calls a second; those still running at the end run on."""
        loop = asyncio.get_running_loop()
        began, before = loop.time(), self._count
        while (passed := loop.time() - began) < seconds:
            while self._count - before < passed * rate:
                self._begin()
            woken = loop.time()
            await asyncio.sleep(STEP)
            self._ledger.lags[self.phase].append(loop.time() - woken - STEP)

    async def finish(self) -> None:
        """Wait until every call has ended, and close all connections."""
        while self._running:
            await asyncio.wait(self._running)
        for _, client in self._idle:
            client.writer.transport.abort()

    def _begin(self) -> None:
        self._count += 1
        call = asyncio.create_task(self._ask(f"{self._seed:x}-{self._count:x}", self.phase))
        self._running.add(call)
        call.add_done_callback(self._running.discard)

    async def _ask(self, call_id: str, phase: str) -> None:
        stream = self._random.random() < 0.5
        leaves = self._random.random() < LEAVES
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._random.uniform(0, 0.05) if leaves else PATIENCE):
                answer = await self._answer(call_id, stream=stream)
            verdict = verdict_of(call_id, answer, stream=stream, cut=False)
        except TimeoutError:
            answer, verdict = NO_ANSWER, "left" if leaves else "LOST"
        except CutShort as error:
            answer = error.answer
            verdict = verdict_of(call_id, answer, stream=stream, cut=True)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            answer, verdict = RawAnswer(0, [], repr(error).encode()), "LOST"
        self._note(call_id, verdict, answer)
        if verdict == "whole" and self._served_at_once(answer):
            seconds = asyncio.get_running_loop().time() - began
            self._ledger.latencies[phase].append(seconds)

    def _served_at_once(self, answer: RawAnswer) -> bool:
        others = answer.value(b"x-gateway-attempts")
        return others is None and answer.value(b"x-gateway-worker") in self._steady

    async def _answer(self, call_id: str, *, stream: bool) -> RawAnswer:
        body = BODIES[stream]
        session = b"s%d" % self._random.randrange(self._sessions)
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", call_id.encode()),
            (b"x-session-id", session),
        ]
        client = await self._client()
        try:
            answer = await client.ask("POST", "/v1/chat/completions", headers, body)
        except BaseException:
            client.writer.transport.abort()
            raise
        self._idle.append((asyncio.get_running_loop().time(), client))
        return answer

    async def _client(self) -> RawClient:
        now = asyncio.get_running_loop().time()
        while self._idle:
            since, client = self._idle.pop()
            if now - since < KEPT and not client.reader.at_eof():
                return client
            client.writer.transport.abort()
        return await RawClient(*self._address).__aenter__()

    def _note(self, call_id: str, verdict: Verdict, answer: RawAnswer) -> None:
        ledger = self._ledger
        ledger.verdicts[verdict] += 1
        if verdict in ("SHORT", "LOST"):
            ledger.unheard.append(f"{call_id} {verdict}: {answer.status} {answer.body[:200]!r}")
        if verdict in ("told", "told mid-stream"):
            ledger.said[code_of(answer)] += 1
        if verdict == "whole":
            ledger.whole.add(call_id)
