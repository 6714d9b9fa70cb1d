"""Whether a model that realtime calls use may give way to batch items."""

import msgspec

from gateway_plugins.runtime.policy.saved import Memory
from gateway_plugins.runtime.policy.situation import Situation
from gateway_plugins.runtime.policy.starvation import PRESSING, Deadlines

ENOUGH = 0.25
"""The part of `min_hot` after which further silence says little more about the next call."""

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
        return next((one for one in (*found, self._token(other)) if one), None)

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
        """`min_hot`, soon a quarter of it, in the end no more than the load takes, since a call
        that comes within it would turn it back."""
        most, patience = self.here.rules.min_hot, self._patience(other)
        needed = most * max(self._strictness(other), min(ENOUGH, patience))
        return max(needed, min(most, self.here.of(other).load_time))

    def _strictness(self, other: str) -> float:
        """Falls fast at first: a short silence early is better than none at the end."""
        return self._patience(other) ** 2

    def _patience(self, other: str) -> float:
        return Deadlines(self.here, self.memory).patience(other)

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
        if expected * self._strictness(other) <= MOST_EXPECTED:
            return None
        return f"{expected:.1f} realtime calls are expected within {away:.0f} s"

    def costs(self, other: str) -> bool:
        """Whether giving way takes a token."""
        here = self.here
        is_realtime = here.present is not None and here.present == here.realtime
        return is_realtime and self._patience(other) >= PRESSING

    def _token(self, other: str) -> str | None:
        bucket, now = self.memory.bucket, self.here.now
        if not self.costs(other) or bucket.level(now) >= 1:
            return None
        return f"no token is left for {bucket.wait(now):.0f} s"
