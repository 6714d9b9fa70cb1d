"""Lets the time of a fleet pass, from event to event, until all sessions are over."""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gateway import Worker
from routing.engine import Engine, Speed, Turn
from routing.routers import Router, Site, Start
from routing.workload import Session, Step

RouterOf = Callable[[Site, Start], Router]


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. `hits` is the share of prompt tokens that caches had; times are seconds.

    `mean` and `p99` are of sessions, from their arrival to the end of their last turn, `end` is
    when the last one ended. `slowest_key` is the mean of the principal whose sessions took longest.
    """

    hits: float
    mean: float
    p99: float
    end: float
    slowest_key: float


class Others(msgspec.Struct, frozen=True):
    """Calls that come to the first `engines` past the gateway, one `every` so many seconds each.

    `prompt` and `output` are tokens.
    """

    engines: int = 0
    every: float = 1.0
    prompt: int = 6_000
    output: int = 400


class Fleet:
    """Some engines behind one router, which `others` use as well."""

    def __init__(
        self,
        sessions: Sequence[Session],
        engines: int,
        speed: Speed,
        router: RouterOf,
        others: Others | None = None,
    ) -> None:
        self._sessions = sessions
        self._others = Others() if others is None else others
        self._foreign: set[Turn] = set()
        self.engines = [Engine(speed) for _ in range(engines)]
        self._site = Site(self.engines)
        self._router = router(self._site, self._start)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._due: dict[Engine, float] = dict.fromkeys(self.engines, math.inf)
        self._homes: dict[Turn, Worker] = {}
        self._ended: dict[int, float] = {}

    def run(self, seed: int) -> Measures:
        """Run all sessions to their ends. The policies that use chance draw from `seed`."""
        before = random.getstate()
        random.seed(seed)
        try:
            for session in self._sessions:
                self._at(session.start, self._arrival(Turn(session, 0, session.start)))
            for place in range(self._others.engines):
                self._at(place / self._others.engines, self._intrusion(self.engines[place], place))
            while len(self._ended) < len(self._sessions):
                self._next()
        finally:
            random.setstate(before)
        return self._measured()

    def _next(self) -> None:
        now, _, happen = heapq.heappop(self._events)
        while (due := self._router.next_time()) is not None and due <= now:
            self._site.now = max(due, self._site.now)
            self._router.pass_time()
        self._site.now = max(now, self._site.now)
        happen()

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happen))

    def _arrival(self, turn: Turn) -> Callable[[], None]:
        return lambda: self._router.arrive(turn)

    def _intrusion(self, engine: Engine, number: int) -> Callable[[], None]:
        """A call of others, and the next one after it."""

        def happen() -> None:
            others, now = self._others, self._site.now
            step = Step(others.prompt, others.output, 0.0)
            turn = Turn(_stranger(number, step), 0, now)
            self._foreign.add(turn)
            engine.add(turn, now)
            self._schedule(engine)
            self._at(now + others.every, self._intrusion(engine, number + others.engines))

        return happen

    def _start(self, turn: Turn, worker: Worker) -> None:
        self._homes[turn] = worker
        worker.begin()
        engine = self._site.engines[worker]
        engine.add(turn, self._site.now)
        self._schedule(engine)

    def _schedule(self, engine: Engine) -> None:
        due = self._due[engine] = engine.next_event()
        if due < math.inf:
            self._at(due, lambda: self._pass(engine, due))

    def _pass(self, engine: Engine, due: float) -> None:
        if self._due[engine] != due:
            return  # a turn came meanwhile, and it takes longer
        for turn in engine.pass_event():
            self._end(turn)
        self._schedule(engine)

    def _end(self, turn: Turn) -> None:
        if turn in self._foreign:
            self._foreign.remove(turn)
            return
        now, session = self._site.now, turn.session
        self._homes.pop(turn).end()
        following = turn.number + 1
        if following < len(session.steps):
            at = now + turn.step.pause
            self._at(at, self._arrival(Turn(session, following, at)))
        else:
            self._ended[session.number] = now - session.start
        self._router.end(turn)

    def _measured(self) -> Measures:
        times = sorted(self._ended.values())
        prompts = sum(engine.prompt_tokens for engine in self.engines)
        cached = sum(engine.cached_tokens for engine in self.engines)
        return Measures(
            hits=cached / prompts,
            mean=sum(times) / len(times),
            p99=times[math.ceil(0.99 * len(times)) - 1],
            end=self._site.now,
            slowest_key=max(self._by_key()),
        )

    def _by_key(self) -> Iterator[float]:
        for name in {session.principal for session in self._sessions}:
            mine = [self._ended[one.number] for one in self._sessions if one.principal == name]
            yield sum(mine) / len(mine)


def _stranger(number: int, step: Step) -> Session:
    """A call of its own, whose text nobody else has."""
    number += 1_000_000
    return Session(number=number, kind=number, principal="", start=0.0, steps=(step,))
