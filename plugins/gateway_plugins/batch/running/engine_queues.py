"""How many calls wait within each engine, as its metrics say.

An engine that runs only so many sequences lets further calls wait in a queue of its own, where a
realtime call waits behind items. Engines that tell its length are asked while items run there.
"""

import asyncio
import re
from collections.abc import Sequence

from gateway import CallError, Worker
from gateway_plugins.batch.running.pace import Pace

LOOK = 0.5
"""Seconds between two looks at an engine."""

AGAIN = 300.0
"""Seconds until an engine that did not tell is asked again: it may have been replaced."""

TIMEOUT = 2.0

WAITING = re.compile(
    rb"^(?:vllm:num_requests_waiting|sglang:num_queue_reqs|llamacpp:requests_deferred"
    rb"|tgi_queue_size)(?:\{[^}\n]*\})? ([0-9.eE+]+)",
    re.MULTILINE,
)
"""The gauges of vLLM, SGLang, llama.cpp and TGI; one with several engines has a line for each."""


class EngineQueues:
    """Asks workers at `path`, and tells the pace."""

    def __init__(self, pace: Pace, path: str) -> None:
        self._pace = pace
        self._path = path
        self._silent_until: dict[str, float] = {}

    async def run(self) -> None:
        """Ask from time to time until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            await self.look(self._pace.busy())

    async def look(self, workers: Sequence[Worker]) -> None:
        """Ask these workers, each unless it did not tell of late."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, until in self._silent_until.items() if until < now]:
            del self._silent_until[name]
        asked = (one for one in workers if one.remote and one.id not in self._silent_until)
        await asyncio.gather(*map(self._ask, asked))

    async def _ask(self, worker: Worker) -> None:
        try:
            answer = await worker.request("GET", self._path, timeout=TIMEOUT)
        except CallError:
            return
        waiting = waiting_in(answer.body) if answer.status == 200 else None
        if waiting is not None:
            self._pace.note_queue(worker, waiting)
        else:
            self._silent_until[worker.id] = asyncio.get_running_loop().time() + AGAIN


def waiting_in(metrics: bytes) -> int | None:
    """Return how many calls wait, as these metrics say; None if they do not say."""
    try:
        found = [float(one) for one in WAITING.findall(metrics)]
        return int(sum(found)) if found else None
    except (ValueError, OverflowError):  # no number, or an endless one
        return None
