"""A worker, its realtime callers and a full queue in virtual time: minutes take a second.

Time is that of a `Clock`, which stands in for `time.monotonic` where it is patched.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import msgspec
from gateway_plugins.batch.running.pace import Pace

from gateway import Attempt, Call, Worker, Workers
from gateway.testing import make_call

LOOK = 0.5
CLAIM = 0.005
"""Seconds from the end of an item to the beginning of the next."""


class Clock:
    """Runs what is due, in order."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._count), work))

    def run(self, seconds: float) -> None:
        ends = self.now + seconds
        while self._due and self._due[0][0] <= ends:
            self.now, _, work = heapq.heappop(self._due)
            work()
        self.now = ends


class Engine(msgspec.Struct, kw_only=True):
    """Runs `places` calls at a time. `spread` is that of first bytes by themselves, as a share.

    It `tells` how many calls wait in it; if it `counts_first`, with those without a first token.
    """

    tells: bool = False
    counts_first: bool = False
    places: int = 32
    ttft: float = 0.05
    itl: float = 0.02
    spread: float = 0.2


class Lived(msgspec.Struct, eq=False):
    """One call: it may wait for a slot in the gateway, and for a place in the engine."""

    call: Call
    tokens: int
    is_item: bool
    came: float
    attempt: Attempt | None = None
    late: float = 0.0


class Fleet:
    """One worker behind a gateway. `ttft` has the times to first bytes of realtime calls.

    `rate` is how many of these come in a second, each with `tokens` tokens; items have `length`.
    While `full`, there are always items to run; `done` counts those that have run.
    """

    def __init__(
        self, pace: Pace, workers: Workers, engine: Engine, clock: Clock, rate: float
    ) -> None:
        self.pace, self.engine, self.clock, self.rate = pace, engine, clock, rate
        self.tokens, self.length = 16, 64
        self.full = False
        self.done = 0
        self.ttft: list[float] = []
        self.items: list[Call] = []
        self._worker: Worker = workers.all[0]
        self._chance = random.Random(7)
        self._in_gateway: deque[Lived] = deque()
        self._in_engine: deque[Lived] = deque()
        self._running = self._first_left = 0
        self._arrive()
        self._look()

    def _arrive(self) -> None:
        if self.rate:
            call = make_call({"model": "sim", "stream": True})
            self._begin(Lived(call, self.tokens, is_item=False, came=self.clock.now))
        self.clock.after(self._chance.expovariate(self.rate or 1.0), self._arrive)

    def _look(self) -> None:
        self._claim()
        if self.engine.tells:
            waiting = len(self._in_engine) + (self._first_left if self.engine.counts_first else 0)
            self.pace.note_queue(self._worker, waiting)
        self.clock.after(LOOK, self._look)

    def _claim(self) -> None:
        _, _, room = self.pace.rooms()
        for _ in range(room if self.full else 0):
            call = make_call({"model": "sim"})
            self.items.append(call)
            self.pace.begin("sim")
            self._begin(Lived(call, self.length, is_item=True, came=self.clock.now))

    def _begin(self, one: Lived) -> None:
        if self._in_gateway or not self._worker.begin():
            self._in_gateway.append(one)
        else:
            self._send(one)

    def _send(self, one: Lived) -> None:
        one.attempt = Attempt(self._worker, self.clock.now)
        one.call.attempts.append(one.attempt)
        self._in_engine.append(one)
        self._serve()

    def _serve(self) -> None:
        while self._in_engine and self._running < self.engine.places:
            one = self._in_engine.popleft()
            self._running += 1
            self._first_left += 1
            first = self.engine.ttft * self._chance.lognormvariate(0, self.engine.spread)
            self.clock.after(first, lambda one=one: self._first(one))  # type: ignore[misc]
            rest = self.engine.itl * (one.tokens - 1)
            self.clock.after(first + rest, lambda one=one: self._end(one))  # type: ignore[misc]

    def _first(self, one: Lived) -> None:
        assert one.attempt is not None
        self._first_left -= 1
        if not one.is_item:
            one.attempt.first_byte = self.clock.now
            self.ttft.append(self.clock.now - one.came)

    def _end(self, one: Lived) -> None:
        assert one.attempt is not None
        self._running -= 1
        one.attempt.ended, one.attempt.status = self.clock.now, 200
        self.pace.attempt_ended(one.call, one.attempt, is_item=one.is_item)
        self._worker.end()
        if self._in_gateway and self._worker.begin():
            self._send(self._in_gateway.popleft())
        self._serve()
        if one.is_item:
            self.done += 1
            self.items.remove(one.call)
            self.pace.end("sim")
            self.clock.after(CLAIM, self._claim)
