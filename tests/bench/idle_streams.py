"""What a stream costs the gateway while nothing comes: its memory, and its CPU.

    python tests/bench/idle_streams.py --streams 2000

A worker in this process begins each stream with one event and then says nothing; the callers wait.
The gateway is a process of its own, told by /proc. `--plugin` may be repeated.
"""

import argparse
import asyncio
import contextlib
import os
import re
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import uvloop

from gateway.testing import MESSAGES, ScriptedConnection, ScriptedWorker, sse

EVENT = sse({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
)
BODY = msgspec.json.encode({"stream": True, "messages": [dict(one) for one in MESSAGES]})
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
COMMAND = (sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--port", "0")
AT_A_TIME = 100
WATCHED = 5.0
"""Seconds over which the CPU of the idle gateway is taken."""


async def begin_and_wait(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.write(ANSWER)
    await connection.wait_closed()


@contextlib.asynccontextmanager
async def gateway(worker: str, plugins: Sequence[str]) -> AsyncIterator[tuple[int, str, int]]:
    """Its pid, and where it listens."""
    enabled = [argument for name in plugins for argument in ("--plugin", name)]
    running = await asyncio.create_subprocess_exec(
        *COMMAND, "--worker", worker, *enabled, stderr=asyncio.subprocess.PIPE
    )
    assert running.stderr is not None
    log = b""
    while (found := re.search(rb"http://([0-9.]+):(\d+)", log)) is None:
        line = await running.stderr.readline()
        if not line:
            raise SystemExit(log.decode())
        log += line
    try:
        yield running.pid, found[1].decode(), int(found[2])
    finally:
        running.kill()
        await running.communicate()


def memory(pid: int) -> int:
    """Resident bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def cpu(pid: int) -> float:
    """Seconds of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def open_stream(host: str, port: int) -> asyncio.StreamWriter:
    """A stream whose first event is here."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(REQUEST)
    await reader.readuntil(EVENT)
    return writer


async def open_streams(host: str, port: int, count: int) -> list[asyncio.StreamWriter]:
    opened: list[asyncio.StreamWriter] = []
    while len(opened) < count:
        more = min(AT_A_TIME, count - len(opened))
        opened += await asyncio.gather(*(open_stream(host, port) for _ in range(more)))
    return opened


async def measure(streams: int, plugins: Sequence[str]) -> None:
    async with (
        ScriptedWorker(begin_and_wait) as worker,
        gateway(worker.url, plugins) as (pid, host, port),
    ):
        opened = await open_streams(host, port, AT_A_TIME)  # what is loaded once is loaded now
        before = memory(pid)
        opened += await open_streams(host, port, streams)
        grown = memory(pid) - before
        busy = cpu(pid)
        await asyncio.sleep(WATCHED)
        share = (cpu(pid) - busy) / WATCHED
        report(streams, before, grown, share)
        for writer in opened:
            writer.transport.abort()


def report(streams: int, before: int, grown: int, share: float) -> None:
    sys.stdout.write(
        f"{streams} idle streams: {grown / streams / 1024:.1f} KiB each "
        f"({before / 2**20:.1f} MiB before, {grown / 2**20:.1f} MiB more), "
        f"{share:.1%} of one core\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--plugin", action="append", default=[])
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(measure(options.streams, options.plugin))


if __name__ == "__main__":
    main()
