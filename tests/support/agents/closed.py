"""Runs a program that has no network but one port, which leads to a gateway.

The program is in network and process namespaces of its own: it reaches nothing else, and what it
has started ends with it. Needs `unshare` of util-linux, and the right to make namespaces.
"""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

INSIDE = Path(__file__).with_name("inside.py")
PORT = 9090
URL = f"http://127.0.0.1:{PORT}"
"""Where the program finds the gateway."""


class Ended(msgspec.Struct, frozen=True):
    """What a program has said, and the status that it ended with."""

    status: int
    said: str
    complained: str


def can_close() -> bool:
    return sys.platform == "linux" and shutil.which("unshare") is not None


async def run_closed(
    command: Sequence[str], gateway: str, folder: Path, env: Mapping[str, str], patience: float
) -> Ended:
    """Run `command` in `folder` with `env` alone; `gateway` is the URL behind the port.

    Raises TimeoutError after `patience` seconds, with the program killed.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inside = [sys.executable, str(INSIDE), str(theirs.fileno()), str(PORT), *command]
        process = await asyncio.create_subprocess_exec(
            *_unshare(),
            *inside,
            cwd=folder,
            env=env,
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        theirs.close()
        try:
            async with asyncio.timeout(patience), _door(await _received(ours), gateway):
                said, complained = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
    return Ended(process.returncode or 0, said.decode(), complained.decode())


def _unshare() -> list[str]:
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return command if os.geteuid() == 0 else [*command, "--map-root-user"]


async def _received(channel: socket.socket) -> socket.socket:
    """The listening socket that the other side of `channel` sends."""
    _, [door], _, _ = await asyncio.to_thread(socket.recv_fds, channel, 1, 1)
    return socket.socket(fileno=door)


@asynccontextmanager
async def _door(listening: socket.socket, gateway: str) -> AsyncIterator[None]:
    """Carries each connection to the gateway during the block."""
    to = urlsplit(gateway)
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(task := asyncio.ensure_future(_carry(reader, writer, to.hostname, to.port)))
        task.add_done_callback(tasks.discard)
        await task

    listening.setblocking(False)
    server = await asyncio.start_server(carry, sock=listening)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str | None, port: int | None
) -> None:
    from_gateway, to_gateway = await asyncio.open_connection(host, port)
    try:
        await asyncio.gather(_pump(reader, to_gateway), _pump(from_gateway, writer))
    finally:
        to_gateway.close()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
