"""Realtime callers in a process of their own.

python callers.py PORT CALLERS SECONDS PAUSE TOKENS [--stream]: each calls, waits for about PAUSE
seconds, and calls again. Prints a Told as one line of JSON.
"""

import asyncio
import json
import random
import subprocess
import sys
import time

import msgspec
import uvloop

PROMPT = "Hello " * 20


class Told(msgspec.Struct):
    """`ttft` has the seconds to first events, `waited` those for which the engine was full."""

    calls: int
    seconds: float
    ttft: list[float]
    waited: list[float]


class Callers:
    def __init__(
        self, callers: int, seconds: float, pause: float, tokens: int, stream: bool
    ) -> None:
        self.command = [str(callers), str(seconds), str(pause), str(tokens)]
        self.command += ["--stream"] if stream else []

    async def call(self, port: int) -> Told:
        """Run the process; return what it found."""
        running = await asyncio.create_subprocess_exec(
            sys.executable, __file__, str(port), *self.command, stdout=subprocess.PIPE
        )
        told, _ = await running.communicate()
        return msgspec.json.decode(told, type=Told)


def request(tokens: int, *, stream: bool) -> bytes:
    """The body of a call."""
    asked: dict[str, object] = {
        "model": "sim",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
    }
    return json.dumps(asked | ({"stream": True} if stream else {})).encode()


async def _caller(
    port: int, told: Told, ends: float, pause: float, tokens: int, stream: bool
) -> None:
    body = request(tokens, stream=stream)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    asked = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if pause:
        await asyncio.sleep(random.random() * pause)
    while (began := time.monotonic()) < ends:
        writer.write(asked)
        head_ = await reader.readuntil(b"\r\n\r\n")
        assert head_.startswith(b"HTTP/1.1 200"), head_ + await reader.read(1000)
        if stream:
            await reader.readuntil(b"data:")
            told.ttft.append(time.monotonic() - began)
            first = await reader.readuntil(b"\n\n")
            told.waited.append(json.loads(first)["waited"])
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            lines = head_.lower().split(b"\r\n")
            [length] = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
            await reader.readexactly(length)
        told.calls += 1
        if pause:
            await asyncio.sleep(random.expovariate(1 / pause))
    writer.close()


async def _main() -> None:
    port, callers, seconds, pause, tokens = sys.argv[1:6]
    told = Told(0, 0.0, [], [])
    began = time.monotonic()
    ends = began + float(seconds)
    stream = "--stream" in sys.argv
    some = (
        _caller(int(port), told, ends, float(pause), int(tokens), stream)
        for _ in range(int(callers))
    )
    await asyncio.gather(*some)
    told.seconds = time.monotonic() - began
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    uvloop.run(_main())
