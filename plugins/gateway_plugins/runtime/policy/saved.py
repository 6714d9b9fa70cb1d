"""What of the policy outlives a restart of the gateway."""

import msgspec

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.bucket import Bucket
from gateway_plugins.runtime.policy.pace import Pace


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy remembers. Times are Unix seconds.

    `tokens` were there `at` a time. `realtime_at`: the latest call for the realtime model.
    `recalled_at`: when realtime calls last brought a model. `left`: when each model last gave way
    after a turn of its own. `pace`: how many items of each started in a second.
    """

    at: float
    tokens: float
    realtime_at: float | None = None
    recalled_at: float | None = None
    left: dict[str, float] = {}
    pace: dict[str, float] = {}


class Memory:
    """What the policy remembers, in `time.monotonic()` seconds.

    `called` tells whether realtime calls brought the present model, `paid` whether a token was
    taken for that. Neither is kept over a restart, which ends that model.
    """

    def __init__(self, rules: Rules, saved: Saved | None, now: float, unix: float) -> None:
        kept = saved or Saved(at=unix, tokens=rules.tokens)
        past = _Past(now, unix)
        self.bucket = Bucket(rules.tokens, rules.refill, kept.tokens, past.of(kept.at))
        self.realtime_at = past.maybe(kept.realtime_at)
        self.recalled_at = past.maybe(kept.recalled_at)
        self.left = {name: past.of(at) for name, at in kept.left.items()}
        self.pace = Pace(kept.pace)
        self.called = False
        self.paid = False

    def saved(self, now: float, unix: float) -> Saved:
        offset = unix - now
        return Saved(
            at=unix,
            tokens=self.bucket.level(now),
            realtime_at=None if self.realtime_at is None else self.realtime_at + offset,
            recalled_at=None if self.recalled_at is None else self.recalled_at + offset,
            left={name: at + offset for name, at in self.left.items()},
            pace=dict(self.pace.of),
        )


class _Past:
    """Turns Unix seconds into monotonic ones; those to come, after the clock was set, are now."""

    def __init__(self, now: float, unix: float) -> None:
        self._now = now
        self._unix = unix

    def of(self, time: float) -> float:
        return self._now - max(0.0, self._unix - time)

    def maybe(self, time: float | None) -> float | None:
        return None if time is None else self.of(time)
