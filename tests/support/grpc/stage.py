"""A gateway with a port of gRPC before a worker that does what the model of each call says."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from support.gateways.serving_process import Process
from support.grpc.stubs import serving_grpc

from gateway.testing import DONE, ScriptedConnection, ScriptedWorker, answer_of, sse

Play = bytes | Callable[[ScriptedConnection], Awaitable[None]]
"""A response, or what a connection does once it has read a request; it is closed then."""

EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Stage:
    """`plays` are by models. `worker` is closed with the stage, `port` is that of gRPC."""

    def __init__(self, plays: dict[str, Play]) -> None:
        self.plays = plays
        self.worker = ScriptedWorker(self._script)
        self.process: Process
        self.port = 0
        self.bodies: dict[str, dict[str, object]] = {}

    async def _script(self, connection: ScriptedConnection) -> None:
        while True:
            _, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
            read = json.loads(body)
            self.bodies[read["model"]] = read
            play = self.plays[read["model"]]
            if not isinstance(play, bytes):
                await play(connection)
                return
            await connection.write(play)


@contextlib.asynccontextmanager
async def staged(
    plays: dict[str, Play],
    folder: Path,
    *plugins: str,
    options: Sequence[str] = (),
    **settings: str,
) -> AsyncIterator[Stage]:
    """Run a gateway with `plugins` before a worker that knows `plays`; see serving_grpc."""
    stage = Stage(plays)
    async with (
        stage.worker,
        serving_grpc(stage.worker.url, folder, *plugins, options=options, **settings) as served,
    ):
        stage.process, stage.port = served
        reading = asyncio.create_task(_read_log(stage.process))
        try:
            yield stage
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def _read_log(process: Process) -> None:
    async for line in process.lines():
        process.log += line


def delta(text: str) -> dict[str, object]:
    """Return an event with text."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


FINISH: dict[str, object] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

USAGE: dict[str, object] = {
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}


def whole(*texts: str) -> bytes:
    """Return the response of a stream that is as it should be."""
    return streamed(sse(*map(delta, texts), FINISH, USAGE) + DONE)


def streamed(body: bytes) -> bytes:
    return answer_of(body, content_type="text/event-stream")


def chunk(data: bytes) -> bytes:
    """Return a chunk of a response that began with EVENTS."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def refused(status: str, body: bytes = b"", *lines: str) -> bytes:
    """Return an error response."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines))
    length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + length).encode() + body
