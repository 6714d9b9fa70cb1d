"""Messages between the processes of one gateway, over sockets in a private folder.

A request is one connection: its length in four bytes (big-endian), then the name of a handler and
the handler's input, as MessagePack. The reply is the handler's output with the same length prefix.
If the handler raises, the connection closes without a reply.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from gateway.errors import ProcessBusy

log = logging.getLogger("gateway")

REPLY_TIMEOUT = 1.0
"""Seconds within which another process must reply."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Maximum size in bytes of a request, and of a reply."""

LOCK_RETRY = 0.005
"""Seconds between two tries of a process that waits for a lock."""

LOCK_TIMEOUT = 10.0
"""Seconds after which a process that waits for a lock gives up."""

Handler = Callable[[bytes], Awaitable[bytes]]


class Topic(msgspec.Struct, frozen=True, array_like=True):
    """The subject of a request. `owner` is the plugin or the part of the core that handles it."""

    owner: str
    name: str


class Request(msgspec.Struct, array_like=True):
    """A request, as it is sent."""

    topic: Topic
    content: bytes


class Peers:
    """The processes of one gateway, from the point of view of one of them.

    `index` is from 0 to `count` - 1; a process that replaces a crashed one has the same index.
    `folder` is private to these processes (0700) and exists as long as the process that started
    them; None if this process is alone and has no others to contact. It serves requests between
    entry and exit.
    """

    def __init__(self, index: int = 0, count: int = 1, folder: Path | None = None) -> None:
        self.index = index
        self.count = count
        self.folder = folder
        self._handlers: dict[Topic, Handler] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def file(self, name: str) -> Path | None:
        """Path of a file that only these processes know; None if this process is alone."""
        return None if self.folder is None else self.folder / name

    def handle(self, topic: Topic, handler: Handler) -> None:
        """Register `handler` for requests of `topic`; a later handler replaces an earlier one."""
        self._handlers[topic] = handler

    async def request(
        self,
        topic: Topic,
        content: bytes = b"",
        *,
        timeout: float = REPLY_TIMEOUT,  # noqa: ASYNC109  it raises nothing
    ) -> list[bytes]:
        """Return the replies of the others within `timeout` seconds, in the order of `index`.

        A process that does not reply is logged, unless it is not running now. Raises nothing.
        """
        if self.folder is None:
            return []
        request = _framed(msgspec.msgpack.encode(Request(topic, content)))
        others = [index for index in range(self.count) if index != self.index]
        replies = await asyncio.gather(*(self._send(index, request, timeout) for index in others))
        for index, reply in zip(others, replies, strict=True):
            if reply is None and self._place(index).exists():
                log.warning(
                    "process %d did not answer process %d: %s %s",
                    index,
                    self.index,
                    topic.owner,
                    topic.name,
                )
        return [reply for reply in replies if reply is not None]

    @contextlib.asynccontextmanager
    async def lock(self, name: str) -> AsyncIterator[None]:
        """Let only one process at a time into blocks of that name; no effect if this one is alone.

        The kernel releases the lock of a process that is killed. Raises ProcessBusy if another one
        keeps it for LOCK_TIMEOUT seconds, as a process that is stopped does.
        """
        if self.folder is None:
            yield
            return
        fd = os.open(self.folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            await _locked(fd, name)
            yield
        finally:
            os.close(fd)

    async def __aenter__(self) -> Self:
        if self.folder is not None:
            place = self._place(self.index)
            place.unlink(missing_ok=True)  # left by a killed process
            self._server = await asyncio.start_unix_server(self._serve, place)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
            self._place(self.index).unlink(missing_ok=True)
            self._server = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _place(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{index}.sock"

    async def _send(self, index: int, request: bytes, seconds: float) -> bytes | None:
        """None if the process is not there, breaks off, or takes too long."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(self._place(index))
                try:
                    writer.write(request)
                    return await _read(reader)
                finally:
                    writer.close()
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                request = msgspec.msgpack.decode(await _read(reader), type=Request)
            handler = self._handlers.get(request.topic)
            if handler is not None:  # during a reload not all have the same plugins
                writer.write(_framed(await handler(request.content)))
                await writer.drain()
        except asyncio.CancelledError:
            pass  # this process ends
        except (OSError, EOFError) as error:
            log.debug("another process has left: %s", error)
        except Exception:
            log.exception("what another process asked for could not be answered")
        finally:
            self._tasks.discard(task)
            writer.close()


async def _locked(fd: int, name: str) -> None:
    try:
        async with asyncio.timeout(LOCK_TIMEOUT):
            while not _try_lock(fd):  # noqa: ASYNC110  flock has no event to wait for
                await asyncio.sleep(LOCK_RETRY)
    except TimeoutError:
        raise ProcessBusy(
            f"another process of this gateway has been changing the {name} for {LOCK_TIMEOUT} s; "
            "the log names a process that was stopped"
        ) from None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(4) + content


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Read one message. Raises EOFError if it breaks off, ValueError if it is too long."""
    length = int.from_bytes(await reader.readexactly(4))
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"another process says {length} bytes at once, and at most {MAX_MESSAGE_BYTES} may be"
        )
    return await reader.readexactly(length)
