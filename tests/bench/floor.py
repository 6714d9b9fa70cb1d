"""The least that a proxy costs on this event loop: reads calls, passes bytes on, knows nothing.

    python tests/bench/floor.py PORT WORKER_PORT

uvloop carries the bytes and httptools finds the ends of calls and responses; connections to the
worker are kept. A caller has one call after the other on its connection.
"""

import asyncio
import sys
from typing import cast

import uvloop
from httptools import HttpRequestParser, HttpResponseParser

HERE = "127.0.0.1"


class Worker(asyncio.Protocol):
    """A connection to the worker: what it receives goes to the caller that has it now."""

    def __init__(self, kept: "list[Worker]") -> None:
        self._kept = kept
        self._parser = HttpResponseParser(self)
        self.caller: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.caller is not None:
            self.caller.write(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.caller = None
        if self._parser.should_keep_alive():
            self._kept.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._kept:
            self._kept.remove(self)


class Caller(asyncio.Protocol):
    def __init__(self, kept: list[Worker], worker_port: int) -> None:
        self._kept, self._port = kept, worker_port
        self._parser = HttpRequestParser(self)
        self._read: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read.append(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._kept:
            self._send(self._kept.pop())
        else:
            self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, worker = await loop.create_connection(lambda: Worker(self._kept), HERE, self._port)
        self._send(worker)

    def _send(self, worker: Worker) -> None:
        worker.caller = self._transport
        worker.transport.writelines(self._read)
        self._read.clear()


async def main(port: int, worker_port: int) -> None:
    kept: list[Worker] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Caller(kept, worker_port), HERE, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
