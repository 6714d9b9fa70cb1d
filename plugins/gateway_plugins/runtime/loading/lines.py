"""What an engine prints, as lines."""

import re

LONGEST = 4_096
"""Bytes of a line; a longer one becomes several."""

_END = re.compile(rb"\r\n|[\r\n]")

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""Colours, and characters that would move the cursor of who reads the log."""


class Lines:
    """Splits a stream into lines. A carriage return ends one too, as in a progress bar."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete now."""
        *whole, self._rest = _END.split(self._rest + data)
        if len(self._rest) >= LONGEST:
            *more, self._rest = _cut(self._rest)
            whole += more
        return [_text(part) for line in whole for part in _cut(line) if part.strip()]

    def end(self) -> list[str]:
        """Return the last line, if it has no end."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest.strip() else []


def _cut(line: bytes) -> list[bytes]:
    return [line[i : i + LONGEST] for i in range(0, len(line) or 1, LONGEST)]


def _text(line: bytes) -> str:
    return _CONTROL.sub("", line.decode(errors="replace"))
