"""What a call costs, counted: the same in every run and on every machine, as no time is.

Calls go to a worker in memory. Its answers have the token ids and logprobs that trace_capture asks
for.
"""

import asyncio
import hashlib
import itertools
import json
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from support.plugins.recording_plugin import until
from support.workers.memory_worker import MemoryPool

from gateway import Gateway
from gateway.config import Config, PluginEntry, Probes, StorageSettings, Worker
from gateway.testing import DONE, RecordedCall, entry, make_call, sse

STACK = (
    "auth",
    "sessions",
    "stickiness",
    "circuit_breaker",
    "backpressure",
    "trace_capture",
    "usage",
    "limits",
    "metrics",
)
"""All that an operator would run, in order."""

CALLERS, EACH = 32, 8
"""Callers at a time in `steps_beside_others`, and calls of each."""

ROUNDS = 5
"""How often `steps_of` counts: a commit wakes the loop once or several times, as threads meet."""

TOKENS = 64
TOKEN = f"gw-{0:043d}"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"


class Steps:
    """Counts frames of Python that are entered or resumed, and functions of C that are called.

    In the thread it is used in, and in those that begin after `watch`.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._counting = False

    def watch(self) -> None:
        threading.setprofile(self._note)

    def __enter__(self) -> None:
        self._counting = True
        sys.setprofile(self._note)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        self._counting = False

    def _note(self, _: FrameType, event: str, __: Any) -> None:
        if self._counting and event in ("call", "c_call"):
            self.taken += 1


def _logprob(place: int) -> dict[str, object]:
    return {
        "token": " tok",
        "logprob": -0.5 - place % 8 / 16,
        "bytes": [32, 116, 111, 107],
        "top_logprobs": [],
    }


_PROMPT = list(range(1_000, 1_032))
_USAGE = {"prompt_tokens": 32, "completion_tokens": TOKENS, "total_tokens": 32 + TOKENS}


def plain() -> list[bytes]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " tok" * TOKENS},
        "logprobs": {"content": [_logprob(place) for place in range(TOKENS)]},
        "finish_reason": "stop",
        "token_ids": list(range(5_000, 5_000 + TOKENS)),
    }
    outside = {"id": "c", "object": "chat.completion", "created": 1, "model": "sim"}
    answer = {**outside, "choices": [choice], "usage": _USAGE, "prompt_token_ids": _PROMPT}
    body = json.dumps(answer, separators=(",", ":")).encode()
    return [HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body]


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    outside = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "sim"}
    return sse({**outside, "choices": choices, **more})


def _token(place: int) -> bytes:
    said = {"content": " tok"} if place else {"role": "assistant", "content": " tok"}
    choice: dict[str, object] = {
        "index": 0,
        "delta": said,
        "logprobs": {"content": [_logprob(place)]},
        "finish_reason": None,
        "token_ids": [5_000 + place],
    }
    return _event([choice], **({} if place else {"prompt_token_ids": _PROMPT}))


def stream(tokens: int) -> list[bytes]:
    """Each event a read of its own, but for the last."""
    last = _event([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}])
    told = {"prompt_tokens": 32, "completion_tokens": tokens, "total_tokens": 32 + tokens}
    return [
        HEAD % b"text/event-stream" + b"connection: close\r\n\r\n",
        *(_token(place) for place in range(tokens)),
        last + _event([], usage=told) + DONE,
    ]


def call_of(number: int, *, streamed: bool) -> RecordedCall:
    asked: dict[str, object] = {
        "model": "sim",
        "messages": [{"role": "user", "content": "Hello " * 20}],
    }
    headers = {
        "host": "127.0.0.1:9090",
        "authorization": f"Bearer {TOKEN}",
        "content-type": "application/json",
        "x-session-id": f"session-{number}",
    }
    return make_call(asked | ({"stream": True} if streamed else {}), headers=headers)


def plugin(name: str, folder: Path, slots: int = 256) -> PluginEntry:
    match name:
        case "backpressure":
            return entry("backpressure", max_in_flight_per_worker=slots)
        case "auth":
            return entry("auth", keys_file=str(folder / "keys.json"))
        case "limits":
            most = 10**12
            limits = {"requests_per_minute": most, "tokens_per_minute": most, "concurrent": most}
            return entry("limits", default=limits)
        case "otel" | "otel, not sampled":
            nowhere = {"endpoint": "http://127.0.0.1:9", "flush_timeout": 0}
            return entry("gateway_plugins.otel:Otel", ratio=int(name == "otel"), **nowhere)
    return entry(name)


@asynccontextmanager
async def gateway_of(
    plugins: Sequence[str], folder: Path, slots: int = 256, runtime: PluginEntry | None = None
) -> AsyncIterator[Gateway]:
    """One gateway with its one worker, which has `slots` and whose `pool` is to be replaced.

    The worker is an engine that `runtime` starts, if given.
    """
    key = {"id": "key-0", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
    keys = folder / "keys.json"
    keys.touch(mode=0o600)
    keys.write_text(json.dumps({"keys": [key]}))
    settings = Config(
        workers=() if runtime else (Worker(url="http://127.0.0.1:1", models=("sim",)),),
        plugins=(
            *([runtime] if runtime else []),
            *(plugin(name, folder, slots) for name in plugins),
        ),
        probes=Probes(interval=None, models_interval=None),
        storage=StorageSettings(path=str(folder / "gateway.db")),
    )
    async with Gateway(settings) as gateway:
        await until(lambda: bool(gateway.workers.fit))
        yield gateway


async def steps_of(
    plugins: Sequence[str],
    answer: list[bytes],
    folder: Path,
    calls: int,
    runtime: PluginEntry | None = None,
) -> float:
    """Steps of one call, one after another, all that they store included: the least of ROUNDS."""
    streamed = b"event-stream" in answer[0]
    numbers = itertools.count()
    steps, counts = Steps(), list[int]()
    steps.watch()
    async with gateway_of(plugins, folder, runtime=runtime) as gateway:
        [worker] = gateway.workers.all
        worker.pool = MemoryPool(answer, kept=not streamed)

        async def carry(count: int) -> None:
            for _ in range(count):
                call = call_of(next(numbers), streamed=streamed)
                await gateway.proxy.dispatch(call)
                assert call.caller.status == 200, call.caller.body
            if gateway.storage.health.state == "ok" and plugins:
                await gateway.storage.flush()

        await carry(4)  # the first ones fill caches
        for _ in range(ROUNDS):
            before = steps.taken
            with steps:
                await carry(calls)
            counts.append(steps.taken - before)
    return min(counts) / calls


async def steps_beside_others(plugins: Sequence[str], folder: Path, *, slots: int) -> float:
    """Steps of one plain call of CALLERS that call all the time, for a worker with `slots`.

    If the slots are few, nearly every call waits for one.
    """
    numbers = itertools.count()
    steps = Steps()
    async with gateway_of(plugins, folder, slots) as gateway:
        [worker] = gateway.workers.all
        worker.pool = MemoryPool(plain())

        async def caller(count: int) -> None:
            for _ in range(count):
                call = call_of(next(numbers), streamed=False)
                await gateway.proxy.dispatch(call)
                assert call.caller.status == 200, call.caller.body

        async def carry(count: int) -> None:
            await asyncio.gather(*(caller(count) for _ in range(CALLERS)))

        await carry(2)
        with steps:
            await carry(EACH)
    return steps.taken / EACH / CALLERS
