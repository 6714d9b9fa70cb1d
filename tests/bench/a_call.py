"""What a call costs the gateway with some plugins, from the first hook to the commit.

    python tests/bench/a_call.py [--plugins auth,usage,limits,metrics] [--keys 10] [--rounds 10]

CPU time of the whole process, the writer's thread included, for a call to a worker in memory: no
sockets. 32 calls run at a time, so that they share commits as they do under load. Each line has one
plugin more than the line before; the least of all rounds counts. A stream has 64 events, each a
read of its own.
"""

import argparse
import asyncio
import gc
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import uvloop
from support.records.step_counts import HEAD, plugin
from support.workers.memory_worker import MemoryPool

from gateway import Gateway
from gateway.config import Config, Probes, StorageSettings, Worker
from gateway.testing import DONE, RecordedCall, make_call, sse

AT_ONCE = 32
CALLS = 1_024
USAGE = {"prompt_tokens": 17, "completion_tokens": 64, "total_tokens": 81}
BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "sim",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 64},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
).encode()
PLAIN = [HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(BODY) + BODY]


def event(choices: list[dict[str, object]], **more: object) -> bytes:
    return sse(
        {"id": "c", "object": "chunk", "created": 1, "model": "sim", "choices": choices} | more
    )


TOKEN = event([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}])
LAST = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
STREAM = [
    HEAD % b"text/event-stream" + b"connection: close\r\n\r\n",
    *[TOKEN] * 64,
    LAST + event([], usage=USAGE) + DONE,
]


def token_of(number: int) -> str:
    return f"gw-{number:043d}"


def write_keys(folder: Path, keys: int) -> None:
    found = [
        {"id": f"key-{n}", "token_sha256": hashlib.sha256(token_of(n).encode()).hexdigest()}
        for n in range(keys)
    ]
    file = folder / "keys.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps({"keys": found}))


def call_of(number: int, stream: bool) -> RecordedCall:
    asked = {"model": "sim", "messages": [{"role": "user", "content": "Hello " * 20}]}
    headers = {
        "host": "127.0.0.1:9090",
        "authorization": f"Bearer {token_of(number)}",
        "content-type": "application/json",
        "user-agent": "bench",
    }
    return make_call(asked | ({"stream": True} if stream else {}), headers=headers)


async def carry(gateway: Gateway, pool: MemoryPool, keys: int, stream: bool) -> float:
    """Seconds of CPU for each call."""
    calls = [call_of(n * 7919 % keys, stream) for n in range(CALLS)]
    began = time.process_time()
    for start in range(0, CALLS, AT_ONCE):
        some = calls[start : start + AT_ONCE]
        pool.sent.clear()  # which it keeps for tests
        await asyncio.gather(*(gateway.proxy.dispatch(call) for call in some))
    took = time.process_time() - began
    assert all(call.caller.status == 200 for call in calls), calls[0].caller.body
    return took / CALLS


async def cost(plugins: Sequence[str], keys: int, rounds: int, stream: bool) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_keys(folder, keys)
        settings = Config(
            workers=(Worker(url="http://127.0.0.1:1", models=("sim",)),),
            plugins=tuple(plugin(one, folder) for one in plugins),
            probes=Probes(interval=None, models_interval=None),
            storage=StorageSettings(path=str(folder / "gateway.db")),
        )
        async with Gateway(settings) as gateway:
            [worker] = gateway.workers.all
            gc.collect()
            gc.freeze()
            pool = worker.pool = MemoryPool(STREAM if stream else PLAIN)
            return min([await carry(gateway, pool, keys, stream) for _ in range(rounds)])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", default="auth,usage,limits,metrics")
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    sys.setswitchinterval(0.001)  # as gateway.serve.server does
    gc.set_threshold(10_000, 20, 20)
    names = [name for name in asked.plugins.split(",") if name]
    for stream in (False, True):
        before = 0.0
        for count in range(len(names) + 1):
            took = await cost(names[:count], asked.keys, asked.rounds, stream) * 1e6
            kind, what = "stream" if stream else "plain", names[count - 1] if count else "the core"
            sys.stdout.write(f"{kind}: {took:6.1f} us, {took - before:+6.1f} by {what}\n")
            before = took


if __name__ == "__main__":
    uvloop.run(main())
