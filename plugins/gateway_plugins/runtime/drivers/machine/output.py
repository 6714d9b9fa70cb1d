"""What an engine prints, read from a pipe in the event loop."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Self, cast

BURST = 1 << 20
"""Bytes that are read at once; an engine that prints more than that waits for `REST`."""

REST = 0.25
"""Seconds. A flood of output must not take the event loop from the calls."""

DRAIN = 1.0
"""Seconds for what is still in the pipe when an engine has ended: strangers may hold it open."""


class Output(asyncio.Protocol):
    """The reading end of a pipe; `writing` is the descriptor for the engine."""

    def __init__(self, log: Callable[[bytes], None], writing: int) -> None:
        self.writing = writing
        self._log = log
        self._left = BURST
        self._resting: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()

    @classmethod
    async def open(cls, log: Callable[[bytes], None]) -> Self:
        """Raises OSError."""
        reading, writing = os.pipe()
        output = cls(log, writing)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_read_pipe(lambda: output, os.fdopen(reading, "rb", buffering=0))
        except BaseException:
            os.close(writing)
            raise
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
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)  # uvloop's has no such base class

    def data_received(self, data: bytes) -> None:
        self._log(data)
        self._left -= len(data)
        if self._left <= 0 and not self._transport.is_closing():
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            self._resting = loop.call_later(REST, self._resume)

    def _resume(self) -> None:
        self._left = BURST
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended.set()
