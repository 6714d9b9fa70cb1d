"""What an engine prints: its last lines in memory, and a file without secrets."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice, repeat
from pathlib import Path
from time import monotonic
from typing import Self

from gateway_plugins.runtime.loading.lines import Lines
from gateway_plugins.runtime.loading.log_file import LogFile
from gateway_plugins.runtime.loading.masking import Masker

log = logging.getLogger("gateway.runtime")

MOST_LINES = 200
"""Lines that tell why an engine failed."""

MOST_RECENT = 5_000
"""Lines that are kept in memory, to be shown."""

MOST_PENDING = 1 << 20
"""Bytes that wait for the disk; what exceeds them is in no file."""

PAUSE = 0.2
"""Seconds between two writes."""


class EngineLog:
    """The log of one start. `write` is the `Log` of a driver.

    `latest` is the `time.monotonic()` of the latest line, at first that of the start. `path` is the
    file, None if there is none.
    """

    def __init__(self, file: LogFile | None, secrets: Iterable[str]) -> None:
        self.latest = monotonic()
        self._recent: deque[tuple[float, str]] = deque(maxlen=MOST_RECENT)
        self._masker = Masker(secrets)
        self._lines = Lines()
        self._file = file
        self._open = file is not None
        self._pending = bytearray()
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @classmethod
    async def open(cls, folder: Path, model: str, secrets: Iterable[str]) -> Self:
        """Begin a log. If there can be no file, it is kept in memory only."""
        try:
            file = await asyncio.to_thread(LogFile, folder, model)
        except OSError as error:
            log.warning("the log of the engine of %s is in no file: %s", model, error)
            return cls(None, secrets)
        return cls(file, secrets)

    @property
    def path(self) -> Path | None:
        return None if self._file is None else self._file.path

    @property
    def tail(self) -> list[str]:
        """The last lines, without secrets."""
        return [line for _, line in self.recent(MOST_LINES)]

    def recent(self, limit: int) -> list[tuple[float, str]]:
        """Return the last lines, without secrets, each with when it came, in Unix seconds."""
        first = max(len(self._recent) - limit, 0)
        return list(islice(self._recent, first, None))

    def write(self, data: bytes) -> None:
        self._add(self._lines.feed(self._masker.feed(data)))

    async def close(self, reason: str | None = None) -> None:
        """Write what is left; `reason`, of a failed start, becomes a part of the file's name."""
        self._add([*self._lines.feed(self._masker.end()), *self._lines.end()])
        self._closing.set()
        if self._writing is not None:
            await self._writing
        await self._close(reason)

    def _add(self, lines: list[str]) -> None:
        if not lines:
            return
        self.latest = monotonic()
        now = time.time()
        self._recent.extend(zip(repeat(now), lines, strict=False))
        if not self._open:
            return
        text = "".join(f"{line}\n" for line in lines).encode()
        self._pending += text[: max(MOST_PENDING - len(self._pending), 0)]
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Write until nothing is pending."""
        while self._pending and self._file is not None and self._open:
            data, self._pending = bytes(self._pending), bytearray()
            try:
                await asyncio.to_thread(self._file.append, data)
            except OSError as error:
                log.warning("%s: the rest of the log is in no file: %s", self.path, error)
                await self._close(None)
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._closing.wait()
        self._writing = None

    async def _close(self, reason: str | None) -> None:
        if self._file is not None and self._open:
            self._open = False
            try:
                await asyncio.to_thread(self._file.close, reason)
            except OSError as error:
                log.warning("%s: %s", self.path, error)
