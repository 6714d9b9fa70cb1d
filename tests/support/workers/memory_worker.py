"""A worker without a socket: what it says comes in exactly the reads that a test wants."""

import asyncio
from collections.abc import Sequence

from gateway.config import ServerLimits
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Pool
from gateway.upstream.response import ResponseParser


class MemoryPool(Pool):
    """Opens connections on which `answer` comes, each piece in a read of its own, then the end.

    `stays`: the connection is left open after the last piece. `kept`: it carries further exchanges
    after that if the answer allows it, as those of engines do. `sent` is all that was written.
    """

    def __init__(self, answer: Sequence[bytes], *, stays: bool = False, kept: bool = False) -> None:
        self._answer_limits = ServerLimits()
        super().__init__("memory", 1, limits=self._answer_limits, connect=None, keepalive=60)
        self.answer = answer
        self.stays = stays or kept
        self.kept = kept
        self.sent = bytearray()

    async def open(self) -> Connection:
        limits = self._answer_limits
        parser = ResponseParser(limits.max_header_bytes, limits.max_headers, self.functions)
        loop, alarm = asyncio.get_running_loop(), self._alarm
        connection = Connection(
            loop, parser, self._keep if self.kept else _no_more, self._lost, alarm
        )
        connection.connection_made(_MemoryTransport(self, connection))
        return connection


class _MemoryTransport(asyncio.Transport):
    def __init__(self, pool: MemoryPool, connection: Connection) -> None:
        super().__init__()
        self._pool = pool
        self._connection = connection
        self._closing = self._asked = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._pool.sent += data
        if not self._asked:
            self._asked = True
            self._connection.loop.call_soon(self._play)

    def _play(self) -> None:
        self._asked = not self._pool.kept
        for piece in self._pool.answer:
            if not self._closing:
                self._connection.data_received(piece)
        if not (self._closing or self._pool.stays):
            self.abort()

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._connection.loop.call_soon(self._connection.connection_lost, None)

    def pause_reading(self) -> None:
        raise AssertionError("the caller of these tests is never full")

    def resume_reading(self) -> None:
        """Nothing was paused."""


def _no_more(_: Connection) -> None:
    pass
