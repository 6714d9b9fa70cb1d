"""Whether a model that realtime calls use may give way to batch items."""

import msgspec

from gateway_plugins.runtime.policy.saved import Memory
from gateway_plugins.runtime.policy.situation import Situation
from gateway_plugins.runtime.policy.starvation import patience

MOST_EXPECTED = 1.0
"""Realtime calls that may be expected until the model could be back."""


class Departure(msgspec.Struct, frozen=True):
    """The present model is to give way for items of another one; it is guarded if calls use it."""

    here: Situation
    memory: Memory

    def obstacle(self, other: str) -> str | None:
        """Why the present model may not give way now; None if it may."""
        if not self._guarded:
            return None
        found = (self._calls(), self._silence(other), self._cooldown(), self._rush(other))
        return next((one for one in (*found, self._token()) if one), None)

    @property
    def _guarded(self) -> bool:
        return self.here.present == self.here.realtime or self.here.called_lately

    def _calls(self) -> str | None:
        return "realtime calls are in flight" if self.here.has_calls else None

    def _silence(self, other: str) -> str | None:
        latest = self._realtime_at
        needed = self._silence_needed(other)
        if latest is None or self.here.now - latest >= needed:
            return None
        return f"the latest realtime call was {self.here.now - latest:.0f} of {needed:.0f} s ago"

    def _silence_needed(self, other: str) -> float:
        """`min_hot`, less the longer items have waited; not less than the load takes, since a call
        that comes within it would turn it back."""
        most = self.here.rules.min_hot
        return max(most * self._strictness, min(most, self.here.of(other).load_time))

    @property
    def _strictness(self) -> float:
        """Falls fast at first: a short silence early is better than none at the end."""
        return patience(self.here) ** 2

    @property
    def _realtime_at(self) -> float | None:
        known = [self.here.here.realtime_at]
        if self.here.present == self.here.realtime:
            known.append(self.memory.realtime_at)
        return max((at for at in known if at is not None), default=None)

    def _cooldown(self) -> str | None:
        recalled = self.memory.recalled_at
        if recalled is None:
            return None
        since = max(recalled, self.here.view.since) if self.memory.called else recalled
        left = since + self.here.rules.cooldown - self.here.now
        return (
            f"realtime calls brought the model, cooldown lasts {left:.0f} s more"
            if left > 0
            else None
        )

    def _rush(self, other: str) -> str | None:
        away = self.here.of(other).load_time + self.here.here.load_time
        expected = self.here.here.arrivals * away
        if expected * self._strictness <= MOST_EXPECTED:
            return None
        return f"{expected:.1f} realtime calls are expected within {away:.0f} s"

    def _token(self) -> str | None:
        bucket, now = self.memory.bucket, self.here.now
        if self.here.present != self.here.realtime or bucket.level(now) >= 1:
            return None
        return f"no token is left for {bucket.wait(now):.0f} s"
