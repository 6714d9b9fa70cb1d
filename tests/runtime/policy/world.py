"""A world for the policy, in steps of time: any calls and items, and engines that always load.

A model that is there answers its calls and starts its items within a step.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.arrivals import Arrivals
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.view import Decision, Demand, Phase, View
from runtime.policy.views import CHAT, UNIX

STEP = 10.0
LOADS = {CHAT: 60.0, "a": 30.0, "b": 60.0, "c": 90.0}


class Event(NamedTuple):
    at: float
    kind: Literal["call", "item"]
    model: str


class Switch(NamedTuple):
    view: View
    decision: Decision


class World:
    def __init__(self, rules: Rules) -> None:
        self.now = 0.0
        self.policy = Policy(rules, CHAT, now=0, unix=UNIX)
        self.waits: list[tuple[float, Event]] = []
        self.switches: list[Switch] = []
        self.tokens: list[float] = []
        self.paid = 0.0
        self.waiting: list[Event] = []
        self._phase: Phase = "idle"
        self._model: str | None = None
        self._since = 0.0
        self._for_batch = False
        self._called: dict[str, float] = {}
        self._served: set[str] = set()
        self._arrivals = {name: Arrivals() for name in LOADS}

    def run(self, events: Iterable[Event], until: float) -> None:
        coming = sorted(events, reverse=True)
        while self.now < until:
            while coming and coming[-1].at <= self.now:
                self._take(coming.pop())
            self._step()
            self.now += STEP

    @property
    def model(self) -> str | None:
        return self._model

    def longest(self, kind: str) -> float:
        """How long an event of this kind waited, or waits."""
        done = [wait for wait, event in self.waits if event.kind == kind]
        open_ = [self.now - event.at for event in self.waiting if event.kind == kind]
        return max([*done, *open_], default=0.0)

    def _take(self, event: Event) -> None:
        self.waiting.append(event)
        if event.kind == "call":
            self._called[event.model] = event.at
            self._arrivals[event.model].note(event.at)

    def _step(self) -> None:
        if self._phase == "loading" and self.now >= self._since + LOADS[self._model or ""]:
            self._phase, self._since = "hot", self.now
        self._serve()
        view = self._view()
        decision = self.policy.decide(view)
        assert self.policy.decide(view) == decision
        self.tokens.append(self.policy.tokens(self.now))
        if decision.cause:
            before = self.policy.tokens(self.now)
            self.policy.switched(view, decision)
            self.paid += before - self.policy.tokens(self.now)
            self.switches.append(Switch(view, decision))
            self._for_batch = decision.cause in ("batch", "starving")
            self._phase, self._model, self._since = "loading", decision.model, self.now

    def _serve(self) -> None:
        here = [one for one in self.waiting if self._phase == "hot" and one.model == self._model]
        self.waits += [(self.now - one.at, one) for one in here]
        self.waiting = [one for one in self.waiting if one not in here]
        self._served = {one.kind for one in here}

    def _view(self) -> View:
        return View(
            now=self.now,
            phase=self._phase,
            model=self._model,
            since=self._since,
            began_for_batch=self._for_batch,
            demands={name: self._demand(name) for name in LOADS},
        )

    def _demand(self, name: str) -> Demand:
        held = [one.at for one in self.waiting if one[1:] == ("call", name)]
        queued = [one.at for one in self.waiting if one[1:] == ("item", name)]
        here = name == self._model
        return Demand(
            held=len(held),
            held_since=min(held, default=None),
            in_flight=int(here and "call" in self._served),
            realtime_at=self._called.get(name),
            arrivals=self._arrivals[name].rate(self.now),
            queued=len(queued),
            running=int(here and "item" in self._served),
            queued_since=min(queued, default=None),
            load_time=LOADS[name],
        )
