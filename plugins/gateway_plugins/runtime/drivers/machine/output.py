"""What an engine prints, read from a pipe in the event loop."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Self

CHUNK = 1 << 16
"""Bytes of one read."""

BURST = 1 << 20
"""Bytes that are read at once; an engine that prints more than that waits for `REST`."""

REST = 0.25
"""Seconds. A flood of output must not take the event loop from the calls."""

DRAIN = 1.0
"""Seconds for what is still in the pipe when an engine has ended: strangers may hold it open."""


class Output:
    """The reading end of a pipe; `writing` is the descriptor for the engine.

    It reads itself, in place of a transport: uvloop closes the descriptor of a pipe twice, and by
    the second time the number may be that of a file which another thread has just opened.
    """

    def __init__(self, log: Callable[[bytes], None], reading: int, writing: int) -> None:
        self.writing = writing
        self._reading: int | None = reading
        self._log = log
        self._left = BURST
        self._resting: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, log: Callable[[bytes], None]) -> Self:
        """Raises OSError."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        output = cls(log, reading, writing)
        output._loop.add_reader(reading, output._read, reading)
        return output

    def given(self) -> None:
        """Close the descriptor for the engine, which has one of its own now."""
        os.close(self.writing)

    async def close(self) -> None:
        """Read what is left, and close the pipe."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN):
                    await self._ended.wait()
        finally:
            if self._resting is not None:
                self._resting.cancel()
            self._end()

    def _read(self, reading: int) -> None:
        try:
            data = os.read(reading, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._end()
            return
        self._log(data)
        self._left -= len(data)
        if self._left <= 0:
            self._loop.remove_reader(reading)
            self._resting = self._loop.call_later(REST, self._resume)

    def _resume(self) -> None:
        self._left = BURST
        if self._reading is not None:
            self._loop.add_reader(self._reading, self._read, self._reading)

    def _end(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            self._loop.remove_reader(reading)
            os.close(reading)
            self._ended.set()
