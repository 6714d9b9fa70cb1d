"""How long the first text of a stream takes from the engine to the caller, of chat and translated.

    PYTHONPATH=.:plugins:tests python -m bench.first_text [--streams 500] [--callers 1]

A scripted worker notes when it sends the first event that has text, and a caller when it has read
that text: the time between is the gateway's and the machine's. Each caller makes a stream of chat,
of Messages and of Responses in turn, all captured, and begins the next when one has ended. Chats
that the caller makes of the worker itself show what the machine takes.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

from support.callers.raw_client import RawClient, head_of
from support.gateways.serving_process import serving

from gateway.client import AsyncGatewayClient
from gateway.testing import DONE, ScriptedConnection, ScriptedWorker, sse

CHAT = "/v1/chat/completions"
BODIES = {
    "chat": (CHAT, b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%b"}]}'),
    "Messages": (
        "/v1/messages",
        b'{"model":"m","stream":true,"max_tokens":99,"messages":[{"role":"user","content":"%b"}]}',
    ),
    "Responses": ("/v1/responses", b'{"model":"m","stream":true,"input":"%b"}'),
}
PLUGINS = ("sessions", "translate", "trace_capture")
TEXT = "Tadaa"
GAP = 0.002
"""Seconds before and after the first text, so that nothing else of the stream is under way."""

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = b"\r\n0\r\n\r\n"
JSON = (b"content-type", b"application/json")
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}


def event(text: str, token: int | None, finish: str | None = None, **more: object) -> bytes:
    """One chunk of the worker's stream, as vLLM sends it to those who ask for ids."""
    scores = [] if token is None else [{"token": text, "logprob": -0.5, "bytes": None}]
    choice = {
        "index": 0,
        "delta": {"content": text},
        "logprobs": {"content": scores},
        "finish_reason": finish,
        "token_ids": [] if token is None else [token],
    }
    return framed(sse({**CHUNK, "choices": [choice], **more}))


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


FIRST = event("", None, prompt_token_ids=[1, 2, 3])
FIRST_TEXT = event(TEXT, 7)
LAST = [
    *(event(" and more", 8) for _ in range(7)),
    event("", 2, "stop"),
    framed(sse({**CHUNK, "choices": [], "usage": USAGE}) + DONE),
    b"0\r\n\r\n",
]


class Sending:
    """What the worker does; `sent` is when each stream's first text was handed to the socket."""

    def __init__(self) -> None:
        self.sent: dict[bytes, float] = {}

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            await connection.write(HEAD + FIRST)
            await asyncio.sleep(GAP)
            self.sent[number_in(request)] = time.perf_counter()
            await connection.write(FIRST_TEXT)
            await asyncio.sleep(GAP)
            for data in LAST:
                await connection.write(data)


def number_in(request: bytes) -> bytes:
    return request.partition(b"stream-")[2].partition(b".")[0]


class Measuring:
    """`took` has the seconds of each stream, by what it was."""

    def __init__(self, sending: Sending, streams: int) -> None:
        self.took: dict[str, list[float]] = {}
        self._sending = sending
        self._rounds = iter(range(streams))
        self._numbers = itertools.count()

    async def call(self, gateway: RawClient, worker: RawClient) -> None:
        """One caller: each API in turn, until all streams were made."""
        async with gateway, worker:
            for _ in self._rounds:
                await self._stream(worker, "", "chat", "no gateway")
                for api in BODIES:
                    await self._stream(gateway, "/sessions/s", api, api)

    async def _stream(self, caller: RawClient, before: str, api: str, name: str) -> None:
        number = b"%d" % next(self._numbers)
        path, text = BODIES[api]
        body = text % (b"stream-%b." % number)
        headers = [JSON, (b"content-length", b"%d" % len(body))]
        await caller.send(head_of("POST", before + path, headers) + body)
        await caller.reader.readuntil(b'"%b"' % TEXT.encode())
        took = time.perf_counter() - self._sending.sent.pop(number)
        self.took.setdefault(name, []).append(took)
        await caller.reader.readuntil(END)


async def measure(streams: int, callers: int, folder: str) -> dict[str, list[float]]:
    """Seconds of each stream. Raises RuntimeError if one has no COMPLETE trace."""
    sending = Sending()
    measuring = Measuring(sending, streams)
    named = [word for plugin in PLUGINS for word in ("--plugin", plugin)]
    async with ScriptedWorker(sending.script) as worker:
        place = urlsplit(worker.url)
        direct = (place.hostname or "", place.port or 0)
        file = str(Path(folder, "traces.db"))
        async with serving(worker.url, *named, storage__path=file) as gateway:
            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(measuring.call(gateway.client(), RawClient(*direct)))
            async with AsyncGatewayClient(gateway.url) as client:
                [session] = await client.list_sessions()
                traces = await client.query_traces(limit=len(BODIES))
    if session.trace_count != len(BODIES) * streams or any(one.reasons for one in traces):
        raise RuntimeError(f"{session.trace_count} traces, the last ones {traces}")
    return measuring.took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=500, help="of each kind (500)")
    parser.add_argument("--callers", type=int, default=1, help="at a time (1)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        took = asyncio.run(measure(asked.streams, asked.callers, folder))
    for name, seconds in took.items():
        cuts = [cut * 1e3 for cut in quantiles(seconds, n=100)]
        sys.stdout.write(f"{name:12} p50 {cuts[49]:.3f} ms  p90 {cuts[89]:.3f} ms\n")


if __name__ == "__main__":
    main()
