"""What a view says, in the terms of the rules."""

import msgspec

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.view import Demand, View

NOTHING = Demand()


class Situation(msgspec.Struct, frozen=True):
    """A view under some rules. `realtime`: the model that is there while nothing else is wanted."""

    rules: Rules
    realtime: str | None
    view: View

    @property
    def now(self) -> float:
        return self.view.now

    @property
    def present(self) -> str | None:
        """The model that is there, or is to come."""
        return None if self.view.phase in ("idle", "failed") else self.view.model

    @property
    def here(self) -> Demand:
        return self.of(self.present)

    def of(self, name: str | None) -> Demand:
        return self.view.demands.get(name or "", NOTHING)

    @property
    def age(self) -> float:
        """Seconds since the present model is there."""
        return self.now - self.view.since

    @property
    def has_items(self) -> bool:
        return self.here.queued + self.here.running > 0

    @property
    def has_calls(self) -> bool:
        return self.here.held + self.here.in_flight > 0

    @property
    def called_lately(self) -> bool:
        """Whether a realtime call for the present model came within `min_hot`."""
        at = self.here.realtime_at
        return self.has_calls or (at is not None and self.now - at < self.rules.min_hot)

    @property
    def wanted(self) -> bool:
        return self.has_items or self.called_lately

    def may_start(self, name: str) -> bool:
        return self.of(name).barred_until <= self.now

    def held(self) -> str | None:
        """The other model that realtime calls wait for: an urgent one, or the longest awaited."""
        found = [
            (not demand.urgent, self._held_since(demand), name)
            for name, demand in self.view.demands.items()
            if name != self.present and demand.held and self._may_come(name, demand)
        ]
        return min(found)[2] if found else None

    def _may_come(self, name: str, demand: Demand) -> bool:
        if not self.may_start(name):
            return False
        return not demand.elsewhere or self.held_for(name) > demand.load_time

    def held_for(self, name: str) -> float:
        """Seconds that the oldest realtime call has waited for a model."""
        return self.now - self._held_since(self.of(name))

    def _held_since(self, demand: Demand) -> float:
        return self.now if demand.held_since is None else demand.held_since

    def queued(self) -> list[str]:
        """The other models that batch items wait for, the first to be served first."""
        found = [
            (-self.rank(name), name)
            for name, demand in self.view.demands.items()
            if name != self.present and demand.queued
            if self.may_start(name) and not demand.elsewhere
        ]
        return [name for _, name in sorted(found)]

    def queued_since(self, name: str) -> float:
        at = self.of(name).queued_since
        return self.now if at is None else at

    def waited(self, name: str) -> float:
        """Seconds that the oldest item has waited for a model."""
        return max(0.0, self.now - self.queued_since(name))

    def rank(self, name: str) -> float:
        """The priority of a model's items: more with age, less with the calls that a load holds."""
        load = 0.0 if name == self.present else self.expected(name)
        return self.of(name).priority + self.waited(name) / self.rules.age_step - load

    def expected(self, name: str) -> float:
        """How many realtime calls for other models are expected while a model loads."""
        others = (one.arrivals for other, one in self.view.demands.items() if other != name)
        return sum(others) * self.of(name).load_time
