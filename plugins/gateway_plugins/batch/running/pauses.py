"""Lanes whose items were refused rest for a while, and then begin again with one item.

Without it each of a million items would be claimed, refused and queued again, over and over, while
a key has no budget left or nobody answers at a worker. The pause doubles with each refusal in a
row, or is as long as the refusal says. After it one item goes first, and each that is not refused
lets one more go.
"""

import math
from time import monotonic

import msgspec

from gateway_plugins.batch.options import Options

FREE = 64
"""Items in flight of a lane from which on it is as free as one that was never refused."""

FORGOTTEN = 600.0
"""Seconds without a refusal after which a lane is forgotten: it may have no items left."""


class Pause(msgspec.Struct, eq=False):
    """Until `until` (`time.monotonic()`) no item of the lane runs, then up to `allowed`.

    `refusals` are those since an item of the lane went well; some at a time count once.
    """

    until: float
    allowed: int = 1
    refusals: int = 1


class Pauses:
    """The pauses of this process, by lane."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pauses: dict[int, Pause] = {}

    def refused(self, lane: int, asked: float) -> None:
        """Rest the lane for `asked` seconds, or longer if it was refused before.

        Refusals of items that went together count as one.
        """
        now = monotonic()
        pause = self._pauses.get(lane)
        if pause is None:
            pause = self._pauses[lane] = Pause(now + asked)
        elif now >= pause.until:
            pause.refusals += 1
            doubled = self._options.min_pause * 2.0 ** min(pause.refusals - 1, 30)
            pause.until = now + max(asked, min(doubled, self._options.max_pause))
        else:
            pause.until = max(pause.until, now + asked)
        pause.allowed = 1

    def went_well(self, lane: int) -> None:
        """Let one more item of the lane go: one was not refused."""
        pause = self._pauses.get(lane)
        if pause is not None and monotonic() >= pause.until:
            pause.refusals = 0
            pause.allowed += 1
            if pause.allowed >= FREE:
                del self._pauses[lane]

    def rooms(self, running: dict[int, int]) -> dict[int, int]:
        """Return the room of each lane that has rested; `running` counts its items in flight."""
        if not self._pauses:
            return {}
        now = monotonic()
        for lane in [a for a, b in self._pauses.items() if b.until + FORGOTTEN < now]:
            del self._pauses[lane]
        return {
            lane: max(pause.allowed - running.get(lane, 0), 0) if now >= pause.until else 0
            for lane, pause in self._pauses.items()
        }

    def soonest(self) -> float:
        """Return the seconds until the first of the lanes that rest has rested; inf: none does."""
        now = monotonic()
        rests = (pause.until - now for pause in self._pauses.values() if pause.until > now)
        return min(rests, default=math.inf)
