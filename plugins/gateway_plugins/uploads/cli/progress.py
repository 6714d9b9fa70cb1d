"""How far a command is, in one line of a terminal that is written again and again."""

import time
from typing import TextIO

WIDTH = 30
EACH = 0.1
"""Seconds between two lines."""


class Bar:
    """Of `total` bytes. Nothing is shown if `out` is no terminal, or the caller wants no bar."""

    def __init__(self, out: TextIO, total: int, *, is_quiet: bool) -> None:
        self._out = out
        self._total = max(total, 1)
        self.is_quiet = is_quiet or not out.isatty()
        self._next = 0.0
        self._began: tuple[str, float, int] = ("", 0.0, 0)

    def show(self, what: str, done: int) -> None:
        """Show that `done` bytes are done of what is done now."""
        now = time.monotonic()
        if what != self._began[0]:
            self._began = (what, now, done)
        if self.is_quiet or now < self._next:
            return
        self._next = now + EACH
        part = min(done / self._total, 1.0)
        filled = "#" * int(part * WIDTH)
        _, began, before = self._began
        rate = (done - before) / max(now - began, EACH) / 1e6
        line = f"\r{what:>10} [{filled:<{WIDTH}}] {part:6.1%} {rate:8.1f} MB/s "
        self._out.write(line)
        self._out.flush()

    def end(self) -> None:
        """Go on in a new line."""
        if self._next:
            self._out.write("\n")
            self._next = 0.0
