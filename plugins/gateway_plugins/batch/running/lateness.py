"""Whether realtime calls get their first bytes later beside items than without them.

The times vary by themselves: with the lengths of prompts, and with whatever else the machine does.
So the medians of many calls are compared. Calls that wait in the worker's own queue are much later,
which is seen sooner: all calls of a second are.

Items are blamed at first. If calls are as late once there are fewer items, something else was the
cause, and these times are the usual ones from then on.
"""

import enum
from collections import deque
from statistics import median

import msgspec

ALONE, BESIDE = 256, 64
"""Number of latest times that are compared: of calls without items, and beside them."""

FEWEST = 32
"""Number of times without items from which on they are compared at all."""

FEW, LONG = 3, 1.0
"""Number of calls, and seconds between the first and the last of them, which show it if each took
`GROSS` times as long as usual. A machine that stands still for a moment delays many at once."""

GROSS = 2.0

TOLERANCE = 0.1
"""How much later first bytes may come beside items, as a share of their time without."""

SLACK = 0.003
"""Seconds by which they may come later in any case."""

HELPED = 0.7
"""Share of the lateness that half of the items may leave if they were the cause of it."""


class Finding(enum.Enum):
    """What the latest times show: nothing, that items are to blame, or that they were not."""

    NOTHING = enum.auto()
    BLAMED = enum.auto()
    ACQUITTED = enum.auto()


class Blame(msgspec.Struct, frozen=True):
    """Items are blamed: how many there were, and by how many seconds calls were late."""

    items: int
    late: float


class Lateness:
    """The times to the first bytes of realtime streams at one worker, in seconds.

    `blame`: items have been blamed, and it is to be seen whether fewer of them help.
    """

    def __init__(self) -> None:
        self.blame: Blame | None = None
        self._alone: deque[float] = deque(maxlen=ALONE)
        self._beside: deque[float] = deque(maxlen=BESIDE)
        self._gross: list[float] = []  # when the calls began, since the last that was not gross
        self._usual: tuple[float, float] | None = None

    def note_alone(self, seconds: float) -> None:
        """Learn the time of a call without items."""
        self._alone.append(seconds)
        self._usual = None

    @property
    def usual(self) -> float | None:
        """The usual time without items; None if it is not known."""
        return None if len(self._alone) < FEWEST else self._bounds()[0]

    def note_beside(self, seconds: float, began: float, items: int) -> Finding:
        """Learn the time of a call that began at this `time.monotonic()` beside so many items."""
        if len(self._alone) < FEWEST:
            return Finding.NOTHING
        usual, most = self._bounds()
        self._beside.append(seconds)
        if self._is_gross(seconds > usual * GROSS + SLACK, began):
            return self._late(min(list(self._beside)[-FEW:]) - usual, items)
        if len(self._beside) < BESIDE:
            return Finding.NOTHING
        middle = median(self._beside)
        if middle > most:
            return self._late(middle - usual, items)
        self.blame = None
        return Finding.NOTHING

    def _bounds(self) -> tuple[float, float]:
        """Return the usual time, and up to which a median of others may differ from it."""
        if self._usual is None:
            usual = median(self._alone)
            spread = median(abs(one - usual) for one in self._alone)
            self._usual = usual, usual * (1 + TOLERANCE) + max(SLACK, spread / 2)
        return self._usual

    def _is_gross(self, gross: bool, began: float) -> bool:
        if not gross:
            self._gross.clear()
            return False
        self._gross.append(began)
        return len(self._gross) >= FEW and max(self._gross) - min(self._gross) >= LONG

    def _late(self, late: float, items: int) -> Finding:
        blame = self.blame
        if blame is None or (items <= blame.items / 2 and late < blame.late * HELPED):
            self.blame = Blame(items, late)
        elif items <= blame.items / 2:
            self._alone.clear()
            self._alone.extend(list(self._beside) * -(-FEWEST // len(self._beside)))
            self._usual = self.blame = None
        self._beside.clear()
        self._gross.clear()
        return Finding.ACQUITTED if self.blame is None else Finding.BLAMED
