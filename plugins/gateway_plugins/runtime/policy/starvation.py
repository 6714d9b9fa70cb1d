"""By when batch items need their model, if all of them are to start within `max_wait`."""

from math import ceil, inf

import msgspec

from gateway_plugins.runtime.policy.saved import Memory
from gateway_plugins.runtime.policy.situation import Situation

PRESSING = 0.5
"""The patience below which items come first, and without a token."""

MARGIN = 30.0
"""Seconds by which a switch may take longer than expected."""


class Deadlines(msgspec.Struct, frozen=True):
    """The models that items wait for, and when the switch to each has to begin at the latest."""

    here: Situation
    memory: Memory

    def patience(self, name: str) -> float:
        """From 1, for items that were just submitted, to 0, for those whose model has to come."""
        since, latest = self.here.queued_since(name), self.latest(name)
        if latest == inf:
            return 1.0
        return min(1.0, max(0.0, (latest - self.here.now) / (latest - since)))

    def pressing(self) -> str | None:
        """The model that has to come first, if its items have lost their patience."""
        late = [one for one in self._by_time() if self.patience(one) < PRESSING]
        return late[0] if late else None

    def starving(self) -> str | None:
        """The model that has to come now."""
        return self._by_time()[0] if self.spare <= 0 else None

    @property
    def spare(self) -> float:
        """Seconds until the switch to the first model has to begin, for the sake of any.

        Between two models realtime calls may have their turn.
        """
        before, spare = self.back if self._for_batch else 0.0, inf
        for name in self._by_time():
            needed = min(self._most, before + self._needed(name))
            spare = min(spare, self._due(name) - needed - self.here.now)
            before += self._turns(name)
        return spare

    def cannot_pause(self) -> bool:
        """Whether a turn for realtime calls would make the present items late, or cut the last."""
        demand, name = self.here.here, self.here.present or ""
        if not demand.queued:
            return demand.running > 0
        due = self._due(name)
        before = sum(self._turns(one) for one in self._by_time() if self._due(one) < due)
        return self.here.now + self.back + before + self._needed(name) >= due

    def latest(self, name: str) -> float:
        """When the switch has to begin; at least half of `max_wait` is left in peace."""
        return self._due(name) - min(self._most, self._needed(name))

    @property
    def back(self) -> float:
        """Seconds that a turn for realtime calls takes."""
        rules = self.here.rules
        return self.here.of(self.here.realtime).load_time + max(rules.cooldown, rules.min_batch)

    @property
    def _most(self) -> float:
        return self.here.rules.max_wait / 2

    def _by_time(self) -> list[str]:
        names = self.here.queued()
        if self._is_coming and self.here.here.queued:
            names.append(self.here.present or "")
        return sorted(names, key=lambda one: (self.latest(one), one))

    @property
    def _is_coming(self) -> bool:
        return self.here.view.phase in ("loading", "draining")

    @property
    def _for_batch(self) -> bool:
        """Whether batch items have the GPU."""
        return self.here.view.began_for_batch and not self._is_coming

    def _due(self, name: str) -> float:
        """Items that are late after a turn leave other models theirs, and the calls `min_hot`."""
        rules, left = self.here.rules, self.memory.left.get(name, -inf)
        since = self.here.queued_since(name)
        due = since + rules.max_wait
        if self.here.now < due or left <= since:
            return due
        if self._for_batch:
            return left + rules.max_wait
        return max(due, left + rules.min_hot + min(self._most, self._needed(name)))

    def _needed(self, name: str) -> float:
        """From the first of the turns that the items need to the start of the last item."""
        work = self.memory.pace.work(name, self.here.of(name).queued)
        more = max(0, ceil(work / self._turn) - 1)
        return (1 + more) * self._start(name) + work + more * self.back

    def _turns(self, name: str) -> float:
        """Seconds that the items and then the realtime calls may take."""
        return max(self._needed(name), self._start(name) + self._turn) + self.back

    @property
    def _turn(self) -> float:
        return max(1.0, self.here.rules.min_batch)

    def _start(self, name: str) -> float:
        return self.here.rules.drain_realtime + self.here.of(name).load_time + MARGIN
