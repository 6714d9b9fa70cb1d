"""Secrets are masked in a stream of bytes, also those that come in several pieces."""

import re
from collections.abc import Iterable

MASK = b"***"


class Masker:
    """Replaces each of `secrets` in what is fed to it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({one.encode() for one in secrets if one}, key=len, reverse=True)
        self._longest = len(self._secrets[0]) if self._secrets else 0
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets)))
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what is known to be no beginning of a secret, of this piece and the last."""
        if not self._secrets:
            return data
        buffer = self._held + data
        safe, place, parts = self._safe(buffer, 0), 0, list[bytes]()
        for found in self._pattern.finditer(buffer):
            if found.start() >= safe:
                break
            parts += (buffer[place : found.start()], MASK)
            place = found.end()
            if place > safe:
                safe = self._safe(buffer, place)
        self._held = buffer[safe:]
        return b"".join((*parts, buffer[place:safe]))

    def end(self) -> bytes:
        """Return the rest, masked: it may be a part of a secret."""
        held, self._held = self._held, b""
        return MASK if held else b""

    def _safe(self, buffer: bytes, start: int) -> int:
        """The end of what cannot become a secret by more bytes."""
        for length in range(min(self._longest - 1, len(buffer) - start), 0, -1):
            end = buffer[-length:]
            if any(one.startswith(end) for one in self._secrets):
                return len(buffer) - length
        return len(buffer)
