"""An engine that runs so many sequences at a time, in a process of its own; others wait for one.

Its streams tell in `waited` for how many seconds they waited for a place.

python slotted_engine.py [--places 32] [--ttft 0.05] [--itl 0.02] [--port 0] [--metrics]: its port
is the first line that it prints. A sequence takes `ttft` seconds to its first token and `itl` for
each further one of its `max_tokens` (16), however many run. It costs so little that a measurement
beside it measures the gateway.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

import uvloop

MODELS = b'{"object":"list","data":[{"id":"sim","object":"model"}]}'
WORDS = "word "


def plain(body: bytes, kind: bytes = b"application/json") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (kind, len(body)) + body


def chunk(*events: dict[str, object] | str) -> bytes:
    data = b""
    for one in events:
        text = one if isinstance(one, str) else json.dumps(one)
        line = f"data: {text}\n\n".encode()
        data += b"%x\r\n%b\r\n" % (len(line), line)
    return data


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(text: str, finish: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "sim", "choices": [choice]}


def whole(tokens: int) -> bytes:
    message = {"role": "assistant", "content": WORDS * tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "model": "sim", "choices": [choice]}
        | {"created": 1, "usage": usage}
    ).encode()


class Places:
    """Those of the engine; whoever waits gets one in the order of arrival."""

    def __init__(self, count: int) -> None:
        self.free = count
        self.running = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if self.free:
            self.free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                else:
                    self.waiting.remove(turn)
                raise
        self.running += 1

    def give(self) -> None:
        self.running -= 1
        self._pass_on()

    def _pass_on(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1

    def metrics(self) -> bytes:
        values = {"num_requests_running": self.running, "num_requests_waiting": len(self.waiting)}
        return "".join(
            f'# TYPE vllm:{name} gauge\nvllm:{name}{{engine="0",model_name="sim"}} {value:.1f}\n'
            for name, value in values.items()
        ).encode()


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, options: argparse.Namespace, places: Places) -> None:
        self._options = options
        self._places = places
        self._held = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, body = self._held.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == LENGTH), 0
        )
        if len(body) < length:
            return
        self._held = b""
        if head.startswith(b"POST"):
            self._task = asyncio.get_running_loop().create_task(self._run(body))
        elif b" /metrics" in head and self._options.metrics:
            self.transport.write(plain(self._places.metrics(), b"text/plain"))
        elif b" /metrics" in head:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        else:
            self.transport.write(plain(MODELS))

    async def _run(self, body: bytes) -> None:
        asked, came = json.loads(body), time.monotonic()
        tokens, options = asked.get("max_tokens", 16), self._options
        await self._places.take()
        waited = time.monotonic() - came
        try:
            await asyncio.sleep(options.ttft)
            if asked.get("stream"):
                self.transport.write(STREAM + chunk(event(WORDS) | {"waited": waited}))
            await asyncio.sleep(options.itl * (tokens - 1))
        finally:
            self._places.give()
        if asked.get("stream"):
            rest = [event(WORDS) for _ in range(tokens - 2)]
            self.transport.write(chunk(*rest, event("", "stop"), "[DONE]") + b"0\r\n\r\n")
        else:
            self.transport.write(plain(whole(tokens)))

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()


LENGTH = b"content-length:"


async def serve(options: argparse.Namespace) -> None:
    places = Places(options.places)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(options, places), "127.0.0.1", options.port
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


@contextlib.contextmanager
def slotted_engine(*arguments: str) -> Iterator[str]:
    """The URL of one that runs with these arguments during the block."""
    command: Sequence[str] = (sys.executable, __file__, *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=32)
    parser.add_argument("--ttft", type=float, default=0.05)
    parser.add_argument("--itl", type=float, default=0.02)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--metrics", action="store_true", help="serve vLLM's /metrics")
    uvloop.run(serve(parser.parse_args()))
