"""How many calls one worker takes before realtime calls feel it.

The window follows AIMD (additive increase, multiplicative decrease; Chiu and Jain, 1989) with the
slow start of TCP: it begins with a few items and doubles with each round of them, or grows by a
quarter beside realtime calls, until the worker shows that it has enough. From then on nearly the
calls that it had are the `ceiling`, and after a while it is tried whether the worker takes a few
more. The while doubles with each try in vain, as realtime calls pay for those. A worker has enough
if it answers 429 or 503, or if realtime calls get their first bytes late, see `lateness.py`.
"""

import math

import msgspec

FIRST_WINDOW = 8.0
"""Items in flight at a worker of which nothing is known yet."""

HOLD = 1.0
"""Seconds between two decreases: what was sent before the first tells nothing new."""

FIRST_REST, LAST_REST = 10.0, 600.0
"""Seconds for which a ceiling stands, after the first decrease and at most."""


SLOWLY = 1 / 4
"""Calls by which an item widens the window beside realtime calls, which would feel a leap."""

STEP = 1 / 8
"""Share of the window by which a ceiling is lifted for a try; at least MIN_STEP calls."""

MIN_STEP = 2.0


class Window(msgspec.Struct, eq=False):
    """The window of one worker. Times are `time.monotonic()`.

    `size` is that of items as long as there is no `ceiling`, and of all calls from then on. The
    ceiling stands until `ceiling_until`, for `rest` seconds. No decrease before `held_until`.
    `before` is the size and the ceiling before the first decrease that may be taken back.
    """

    size: float = FIRST_WINDOW
    ceiling: float = math.inf
    ceiling_until: float = 0.0
    held_until: float = 0.0
    rest: float = FIRST_REST
    before: tuple[float, float] | None = None

    def calls(self, realtime: int) -> int:
        """Return how many calls the worker may have, if `realtime` places are taken or kept."""
        return int(self.size) + (realtime if self.ceiling == math.inf else 0)

    @property
    def most(self) -> float:
        """The most calls that the worker should have; inf as long as that is not known."""
        return math.inf if self.ceiling == math.inf else int(self.size)

    def shrink(self, size: float, ceiling: float, now: float, rest: float = FIRST_REST) -> None:
        """The worker has enough: let it have `size` calls, and soon up to `ceiling`.

        That stands for `rest` seconds, or longer if it was lifted in vain before.
        """
        if now < self.held_until:
            return
        if self.ceiling < math.inf:
            in_vain = now < self.ceiling_until + 2 * self.rest
            self.rest = min(self.rest * 2, LAST_REST) if in_vain else FIRST_REST
        self.rest = max(self.rest, rest)
        if self.before is None:
            self.before = self.size, self.ceiling
        self.size, self.ceiling = max(size, 1.0), max(ceiling, 1.0)
        self.ceiling_until = now + self.rest
        self.held_until = now + HOLD

    def undo(self) -> None:
        """Take decreases back: what caused them was not the worker's load."""
        if self.before is not None:
            (self.size, self.ceiling), self.before = self.before, None
            self.rest = FIRST_REST

    def widen(self, most: float, now: float, *, beside: bool) -> None:
        """An item went well while the window was used whole; `beside` realtime calls or not."""
        if self.size >= self.ceiling and now >= self.ceiling_until:
            self.ceiling = self.size + max(self.size * STEP, MIN_STEP)
            self.ceiling_until = now + self.rest
        if now >= self.held_until:
            more = SLOWLY if beside else 1.0
            self.size = max(min(self.size + more, self.ceiling, most), 1.0)
