"""The box: a clock, an engine that loads and serves one model, and a record of what happened."""

import heapq
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import msgspec

from gateway_plugins.runtime.policy.simulation.load import BROKEN, LOADS, REALTIME, Call, Item, Load

AT_ONCE = 64
"""Batch items at a time."""

State = Literal["empty", "loading", "draining", "idle", "working"]


class Span(msgspec.Struct):
    """A time in which the box was in one state with one model."""

    start: float
    end: float
    state: State
    model: str | None


class Wait(msgspec.Struct):
    """How long a caller waited `until_served`, and how long until the model was there for it."""

    at: float
    until_served: float
    until_ready: float


class Record(msgspec.Struct):
    """What happened. `switches` are loads that were begun; `refused` are errors that callers saw;
    `depths` are the numbers of items that waited, with the times at which they changed."""

    spans: list[Span] = msgspec.field(default_factory=list)
    waits: list[Wait] = msgspec.field(default_factory=list)
    depths: list[tuple[float, int]] = msgspec.field(default_factory=list)
    switches: int = 0
    refused: int = 0


class Box(ABC):
    """What both systems share. A system is told of arrivals and ends, and calls `load` and `serve`.

    A call is `came(call)`, an item `submitted(item)`; `loaded` and `failed` tell of loads, `freed`
    that a call or an item ended.
    """

    def __init__(self, load: Load) -> None:
        self.work = load
        self.now = 0.0
        self.record = Record()
        self.model: str | None = None
        self.state: State = "empty"
        self.since = 0.0
        self.calls: set[Call] = set()
        self.items: dict[Item, None] = {}  # in the order of their starts, unlike a set's
        self.queued: defaultdict[str, int] = defaultdict(int)
        self._unready: dict[Call, float | None] = {}
        self._generation = 0
        self._order = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def run(self) -> Record:
        """Simulate until the end of the load."""
        for call in self.work.calls:
            self.at(call.at, lambda call=call: self._came(call))  # type: ignore[misc]
        for item in self.work.items:
            self.at(item.at, lambda item=item: self._submitted(item))  # type: ignore[misc]
        self.begin()
        while self._events and self._events[0][0] < self.work.end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = self.work.end
        self._mark()
        return self.record

    def at(self, time: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, event))

    def begin(self) -> None:  # noqa: B027  a system may have nothing to do then
        """The box is switched on."""

    @abstractmethod
    def came(self, call: Call) -> None:
        """A caller tries, or tries again."""

    @abstractmethod
    def submitted(self, item: Item) -> None: ...

    @abstractmethod
    def loaded(self) -> None: ...

    @abstractmethod
    def failed(self, model: str) -> None: ...

    @abstractmethod
    def freed(self) -> None: ...

    @property
    def serves_calls(self) -> bool:
        return self.model == REALTIME and self.state in ("idle", "working")

    def load(self, model: str) -> None:
        """End what is there, and load a model."""
        self.record.switches += 1
        self._become("loading", model)
        self._generation += 1
        mine = self._generation
        self.at(self.now + LOADS[model], lambda: self._loaded(mine))

    def drain(self) -> None:
        self._become("draining", self.model)

    def serve(self, call: Call) -> None:
        ready = self._unready.pop(call, None)
        waited = self.now - call.at
        self.record.waits.append(
            Wait(call.at, waited, waited if ready is None else ready - call.at)
        )
        self.calls.add(call)
        self._become("working", self.model)
        self.at(self.now + call.seconds, lambda: self._served(call))

    def start(self, item: Item) -> None:
        self.count(item, -1)
        if item.started is None:
            item.started = self.now
        self.items[item] = None
        self._become("working", self.model)
        mine = self._generation
        self.at(self.now + item.seconds, lambda: self._ended(item, mine))

    def count(self, item: Item, number: int) -> None:
        """An item waits from now on, or waits no longer."""
        self.queued[item.model] += number
        self.record.depths.append((self.now, sum(self.queued.values())))

    def lose(self, item: Item) -> None:
        """The item ends as an error."""
        item.ended, item.lost = self.now, True

    def _came(self, call: Call) -> None:
        self._unready[call] = None
        self.came(call)

    def _submitted(self, item: Item) -> None:
        self.count(item, 1)
        self.submitted(item)

    def _loaded(self, generation: int) -> None:
        if generation != self._generation or self.state != "loading":
            return
        if self.model == BROKEN:
            self._become("empty", None)
            self.failed(BROKEN)
            return
        self._become("idle", self.model)
        if self.model == REALTIME:
            for call, ready in self._unready.items():
                self._unready[call] = self.now if ready is None else ready
        self.loaded()

    def _served(self, call: Call) -> None:
        self.calls.discard(call)
        self._settle()
        self.freed()

    def _ended(self, item: Item, generation: int) -> None:
        if generation != self._generation or item not in self.items:
            return
        del self.items[item]
        item.ended = self.now
        self._settle()
        self.freed()

    def _settle(self) -> None:
        if self.state == "working" and not self.calls and not self.items:
            self._become("idle", self.model)

    def _become(self, state: State, model: str | None) -> None:
        if (state, model) == (self.state, self.model) and state != "loading":
            return
        self._mark()
        if model != self.model or state in ("loading", "empty") or self.state == "loading":
            self.since = self.now
        self.state, self.model = state, model

    def _mark(self) -> None:
        last = self.record.spans[-1].end if self.record.spans else 0.0
        if self.now > last:
            self.record.spans.append(Span(last, self.now, self.state, self.model))
