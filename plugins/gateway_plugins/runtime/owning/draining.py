"""Lets the calls of an engine that makes room end: none is cut off without a word."""

import asyncio
from collections.abc import Iterator
from time import monotonic

from gateway import Call, Host, Worker
from gateway_plugins.runtime.holding.errors import ModelSwitched
from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.owning.demand import Wants

CUT = 5.0
"""Seconds that calls may take to end after they were cancelled."""


class Draining:
    """Items get `drain_batch` seconds, then are queued again; realtime calls `drain_realtime`."""

    def __init__(self, gateway: Host, wants: Wants) -> None:
        self._gateway = gateway
        self._wants = wants

    async def drain(self, worker: Worker, model: str, rules: Rules) -> None:
        """Return once the worker has no calls, at once if it has none.

        The worker gets no new calls already.
        """
        began = monotonic()
        if await self._is_free(worker, rules.drain_batch):
            return
        await self._wants.preempt(model)
        left = began + rules.drain_realtime - monotonic()
        if await self._is_free(worker, max(left, 0.0)):
            return
        for call in list(self._calls(worker)):
            call.cancel(ModelSwitched())
        await self._is_free(worker, CUT)

    def _calls(self, worker: Worker) -> Iterator[Call]:
        for call in self._gateway.calls_in_flight:
            if call.attempts and call.worker is worker and call.attempts[-1].ended is None:
                yield call

    async def _is_free(self, worker: Worker, seconds: float) -> bool:
        """Wait until the worker has no calls; False if it has some after so many seconds."""
        freed = asyncio.Event()

        def note(one: Worker) -> None:
            if one is worker and not worker.in_flight:
                freed.set()

        self._gateway.workers.freed.append(note)
        try:
            if worker.in_flight:
                async with asyncio.timeout(seconds):
                    await freed.wait()
        except TimeoutError:
            return not worker.in_flight
        finally:
            self._gateway.workers.freed.remove(note)
        return True
