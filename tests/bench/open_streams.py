"""What the gateway keeps in memory of long streams that are open, of chat and translated.

    PYTHONPATH=.:plugins:tests python -m bench.open_streams [--streams 100] [--events 2000]

A scripted worker sends each stream its events, one token each, the next one once the caller has
read of the one before, and leaves it open; all are captured. Each API has a gateway process of its
own, told by /proc, in which a few streams were opened before.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

from support.callers.raw_client import RawClient, head_of
from support.gateways.serving_process import Process, serving

from bench.first_text import (
    BODIES,
    FIRST,
    FIRST_TEXT,
    HEAD,
    JSON,
    PLUGINS,
    TEXT,
    event,
    number_in,
)
from gateway.testing import ScriptedConnection, ScriptedWorker

WARM = 20
AT_A_TIME = 50
READ = 65_536


class Sending:
    """What the worker does with a stream: `events` tokens, and a last text to be recognised.

    `was_read` is set for a stream whenever its caller has read. So no two events share a read,
    which takes less memory and depends on what else the machine does.
    """

    def __init__(self, events: int) -> None:
        self.was_read: defaultdict[bytes, asyncio.Event] = defaultdict(asyncio.Event)
        self._tokens = [event(f" tok{token % 1000}", token) for token in range(events)]

    async def script(self, connection: ScriptedConnection) -> None:
        was_read = self.was_read[number_in(await connection.read_request())]
        for data in (HEAD + FIRST, *self._tokens, FIRST_TEXT):
            await connection.write(data)
            await was_read.wait()
            was_read.clear()
        await connection.wait_closed()


class Opening:
    """Opens streams of one API at a gateway."""

    def __init__(self, gateway: Process, api: str, sending: Sending) -> None:
        self._gateway = gateway
        self._path, self._text = BODIES[api]
        self._sending = sending
        self._numbers = itertools.count()

    async def _stream(self) -> RawClient:
        """A stream of which all that the worker has sent is here."""
        number = b"%d" % next(self._numbers)
        was_read = self._sending.was_read[number]
        caller = await RawClient(*self._gateway.address).__aenter__()
        body = self._text % (b"stream-%b." % number)
        headers = [JSON, (b"content-length", b"%d" % len(body))]
        await caller.send(head_of("POST", "/sessions/s" + self._path, headers) + body)
        end, sought = b"", b'"%b"' % TEXT.encode()
        while sought not in end:
            more = await caller.reader.read(READ)
            if not more:
                raise RuntimeError(f"a stream ended: {end!r}")
            end = end[-len(sought) :] + more
            was_read.set()
        return caller

    @contextlib.asynccontextmanager
    async def opened(self, count: int) -> AsyncIterator[None]:
        """So many streams that are open within the block."""
        async with contextlib.AsyncExitStack() as stack:
            for first in range(0, count, AT_A_TIME):
                some = [self._stream() for _ in range(min(AT_A_TIME, count - first))]
                for caller in await asyncio.gather(*some):
                    stack.push_async_exit(caller)
            yield


async def measure(api: str, worker: str, sending: Sending, streams: int) -> float:
    """Bytes of each stream."""
    named = [word for plugin in PLUGINS for word in ("--plugin", plugin)]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "traces.db"))
        async with serving(worker, *named, storage__path=file) as gateway:
            opening = Opening(gateway, api, sending)
            async with opening.opened(WARM):
                before = gateway.memory()
                async with opening.opened(streams):
                    return (gateway.memory() - before) / streams


async def run(streams: int, events: int) -> None:
    for api in BODIES:
        sending = Sending(events)
        async with ScriptedWorker(sending.script) as worker:
            size = await measure(api, worker.url, sending, streams)
        each = f"{size / 1024:.1f} KiB each, {size / events:.0f} bytes an event"
        sys.stdout.write(f"{streams} streams of {events} events, {api:9}: {each}\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=100, help="of each API (100)")
    parser.add_argument("--events", type=int, default=2_000, help="of each stream (2000)")
    asked = parser.parse_args()
    asyncio.run(run(asked.streams, asked.events))


if __name__ == "__main__":
    main()
