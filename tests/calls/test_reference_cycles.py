"""Calls that are over are freed at once: none of them is in a ring that only the collector finds.

What is left to the collector fills the memory that the next calls would have used again, and made
calls with plugins cost half as much again.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.plugins.recording_plugin import until
from support.workers.memory_worker import MemoryPool

from gateway import Call, Gateway
from gateway.config import Config, PluginEntry, StorageSettings, Worker
from gateway.testing import DONE, NO_PROBES, entry, make_call, sse

EVENT = sse({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]})
STREAM = [
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
    EVENT,
    DONE,
]
PLUGINS: list[tuple[str | PluginEntry, ...]] = [
    ("sessions", "circuit_breaker", "backpressure", "stickiness", "trace_capture"),
    (entry("limits", default={"tokens_per_minute": 10**9}), "usage", "metrics", "access_log"),
]


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calls_there() -> int:
    return sum(issubclass(type(one), Call) for one in gc.get_objects())


@pytest.mark.parametrize("plugins", PLUGINS)
@pytest.mark.parametrize("refused", [False, True])
async def test_finished_calls_are_freed_without_garbage_collection(
    tmp_path: Path, uncollected: None, plugins: tuple[str | PluginEntry, ...], refused: bool
) -> None:
    config = Config(
        workers=(Worker(url="http://127.0.0.1:1", models=("sim",)),),
        plugins=tuple(one if isinstance(one, PluginEntry) else entry(one) for one in plugins),
        probes=NO_PROBES,
        storage=StorageSettings(path=str(tmp_path / "gateway.db")),
    )
    async with Gateway(config) as gateway:
        [worker] = gateway.workers.all
        worker.pool = MemoryPool([b"not HTTP\r\n\r\n"] if refused else STREAM)
        before = calls_there()
        for stream in (False, True):
            call = make_call({"model": "sim", "messages": [], "stream": stream})
            await gateway.proxy.dispatch(call)
            assert call.outcome.complete is not refused
            del call
        await gateway.storage.flush()
        await until(lambda: calls_there() == before)
