"""Who takes in less than is sent holds the sender back, and the gateway keeps next to nothing.

Worker and caller are threads with sockets that block, each as fast as the other side lets it; the
gateway is a process of its own, so that its memory can be seen.
"""

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from support.callers.raw_client import RawClient, head_of
from support.gateways.serving_process import Process, serving
from support.plugins.recording_plugin import PATIENCE, Watcher, until

from gateway.config import Timeouts
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, sse

MIB = 1 << 20
GROWTH = 16 * MIB
"""What the gateway may need for a call of any size."""

IN_THE_KERNEL = 64 * MIB
"""More than the buffers of all sockets on the way hold together."""

HELD_BACK = 0.3
"""Seconds without room in the socket after which its writer is taken to be held back."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = sse({"choices": [{"index": 0, "delta": {"content": "x" * 65_000}}]})
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
LAST_CHUNK = b"0\r\n\r\n"
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
    1 << 40
)


class Writer:
    """Counts what it has written, and says when it has had to wait."""

    def __init__(self) -> None:
        self.written = 0
        self.held_back = threading.Event()

    def write(self, to: socket.socket, piece: bytes, times: int) -> None:
        for _ in range(times):
            if not select.select((), (to,), (), HELD_BACK)[1]:
                self.held_back.set()
            to.sendall(piece)
            self.written += len(piece)


@contextlib.contextmanager
def blocking_worker(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a worker whose one connection a thread serves; it has ended with the block."""

    def run() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(PATIENCE)
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            thread.join()


def read_until(connection: socket.socket, end: bytes) -> bytes:
    read = b""
    while end not in read:
        piece = connection.recv(65_536)
        if not piece:
            raise ConnectionError("closed before its end")
        read += piece
    return read


def read_all(connection: socket.socket, size: int) -> None:
    buffer = bytearray(MIB)
    while size:
        read = connection.recv_into(buffer)
        if not read:
            raise ConnectionError(f"closed {size} bytes before its end")
        size -= read


def read_to_the_end(connection: socket.socket) -> tuple[int, bytes]:
    """How many bytes came, and the last of them."""
    buffer, size, end = bytearray(MIB), 0, b""
    while read := connection.recv_into(buffer):
        size += read
        end = (end + buffer[max(0, read - len(LAST_CHUNK)) : read])[-len(LAST_CHUNK) :]
    return size, bytes(end)


def connected(process: Process) -> socket.socket:
    return socket.create_connection(process.address, timeout=PATIENCE)


async def in_thread(wait: threading.Event) -> None:
    assert await asyncio.to_thread(wait.wait, PATIENCE)


@contextlib.contextmanager
def little_growth(process: Process) -> Iterator[None]:
    """Neither at the end nor at any moment of the block the process may have grown by more."""
    before = process.memory()
    process.forget_peak()
    yield
    assert process.memory("VmHWM") - before < GROWTH


async def test_slow_caller_holds_back_the_worker_without_memory_growth() -> None:
    writer = Writer()
    count = (1 << 30) // len(EVENT) + 1

    def serve(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(HEAD)
        writer.write(connection, CHUNK, count)
        connection.sendall(LAST_CHUNK)

    with blocking_worker(serve) as url:
        async with serving(url) as process:
            with little_growth(process), connected(process) as caller:
                caller.sendall(head_of("GET", "/v1/stream", [(b"connection", b"close")]))
                await in_thread(writer.held_back)
                assert writer.written < IN_THE_KERNEL
                read, end = await asyncio.to_thread(read_to_the_end, caller)
    assert read > len(EVENT) * count
    assert end == LAST_CHUNK


async def test_slow_worker_holds_back_an_upload_without_memory_growth() -> None:
    size = 300 * MIB
    writer, go_on = Writer(), threading.Event()

    def serve(connection: socket.socket) -> None:
        head = read_until(connection, b"\r\n\r\n")
        assert go_on.wait(PATIENCE)
        read_all(connection, size - len(head.partition(b"\r\n\r\n")[2]))
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    with blocking_worker(serve) as url:
        async with serving(url, limits__max_body_bytes=str(size)) as process:
            with little_growth(process), connected(process) as caller:
                length = (b"content-length", b"%d" % size)
                caller.sendall(head_of("POST", "/v1/upload", [length]))
                sending = asyncio.create_task(
                    asyncio.to_thread(writer.write, caller, bytes(MIB), size // MIB)
                )
                await in_thread(writer.held_back)
                assert writer.written < IN_THE_KERNEL
                go_on.set()
                await sending
                answer = await asyncio.to_thread(read_until, caller, b"{}")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/plain"])
async def test_caller_that_reads_nothing_is_disconnected_after_idle(
    gateway_for: GatewayFor, path: str
) -> None:
    async def endless(connection: ScriptedConnection) -> None:
        plain = b"/v1/plain" in await connection.read_request()
        await connection.write(PLAIN_HEAD if plain else HEAD)
        while True:
            await connection.write(EVENT if plain else CHUNK)

    async with ScriptedWorker(endless) as worker:
        live = await gateway_for(Watcher, workers=(worker.url,), timeouts=Timeouts(idle=0.2))
        async with RawClient(*live.server.address) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(head_of("GET", path, []))
            outcome = await live.plugin(Watcher).outcome()
            await worker.connections[0].wait_closed()
            await until(lambda: not live.server.server_state.connections)
    assert outcome.caller_gone
    assert outcome.status == 200
    assert not outcome.complete
