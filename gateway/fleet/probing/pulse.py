"""The probes of one worker, one after the other."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from time import monotonic

from gateway import config
from gateway.errors import CallError, ConnectFailed
from gateway.fleet.probing.vitals import FailureKind, Signs, State, Vitals, failure_kind
from gateway.fleet.worker import PROBE, Worker

log = logging.getLogger("gateway.probes")

FIRST_PROBE_SPREAD = 0.1
"""Share of the interval over which the first probes are spread."""

ABSENT_INTERVAL = 1.0
"""Maximum seconds between two probes of a worker that refuses connections."""

MIN_PAUSE = 0.1
"""Minimum seconds between two probes, however often calls fail meanwhile."""


class Pulse:
    """Probes one worker, and sets its condition `probe` by what probes and calls tell.

    `is_last` tells whether no other worker could take the worker's calls, `on_return` is called
    when a worker that was down is up again. A worker that is not probed has the condition only
    after it has refused a connection to a call, until it accepts one.
    """

    def __init__(
        self,
        worker: Worker,
        settings: config.Probes,
        is_last: Callable[[Worker], bool],
        on_return: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._is_last = is_last
        self._on_return = on_return
        self._wanted = asyncio.Event()
        self._vitals = self._fresh("up" if settings.interval is None else _shown(worker))
        if settings.interval is None:
            worker.clear(PROBE)

    async def run(self) -> None:
        interval = self._settings.interval
        if interval is not None:
            await self._wait(interval * FIRST_PROBE_SPREAD * random.random())
        while True:
            self._wanted.clear()
            await self._look()
            await self._wait(self._pause())

    def call_failed(self, error: CallError) -> None:
        """Take note of a call that failed at the worker: look at once, or hold calls back now."""
        kind = failure_kind(error) if isinstance(error, ConnectFailed) else None
        if kind in ("refused", "unresolved"):
            self._failed(kind, monotonic(), "no connection for a call", error.message)
        if kind is not None or not isinstance(error, ConnectFailed):
            self._wanted.set()

    def _fresh(self, state: State = "up") -> Vitals:
        settings = self._settings
        period = (settings.interval or ABSENT_INTERVAL) + settings.timeout
        return Vitals(settings.fall, settings.rise, period, state)

    async def _look(self) -> None:
        wanted = self._expected()
        if wanted is not None:
            await self._probe(wanted)
        elif self._vitals.state == "down":
            await self._connect()
        elif self._vitals.state == "suspect":
            self._vitals = self._fresh()
            self._worker.clear(PROBE)

    def _expected(self) -> config.Expected | None:
        if self._settings.interval is None:
            return None
        return config.expected(self._worker.settings.probe, self._settings.path)

    async def _probe(self, wanted: config.Expected) -> None:
        what, began = f"{wanted.method} {wanted.path}", monotonic()
        try:
            answer = await self._worker.request(
                wanted.method, wanted.path, timeout=self._settings.timeout
            )
        except CallError as error:
            self._failed(failure_kind(error), began, what, error.message)
            return
        mistake = wanted.mistake(answer.status, answer.body)
        if mistake is None:
            self._succeeded()
        else:
            self._failed("failed", began, what, mistake)

    async def _connect(self) -> None:
        """Look whether a worker that is not probed accepts connections again."""
        began = monotonic()
        try:
            (await self._worker.pool.open()).abort()
        except CallError as error:
            self._failed(failure_kind(error), began, "no connection", error.message)
        else:
            self._succeeded()

    def _failed(self, kind: FailureKind | None, began: float, what: str, failure: str) -> None:
        if kind is None:  # the gateway's own fault
            return
        worker, vitals = self._worker, self._vitals
        last = self._is_last(worker)
        heard = max(worker.answered_at, worker.pool.heard_at())
        after = vitals.failed(kind, began, Signs(heard, worker.failed_at), last=last)
        if after == _shown(worker):
            return
        times = f", {vitals.failures} times in a row" if vitals.failures > 1 else ""
        reason = f"{what}: {failure}{times}"
        if after == "down":
            log.warning("worker %s is down: %s", worker.id, reason)
            worker.mark(PROBE, "down", reason)
        else:
            why = "the last one for its models" if last else "its calls go well"
            log.warning("worker %s is suspect, and gets calls (%s): %s", worker.id, why, reason)
            worker.mark(PROBE, "suspect", f"{reason}; {why}", blocks=False)

    def _succeeded(self) -> None:
        before = _shown(self._worker)
        if before == self._vitals.succeeded():
            return
        log.warning("worker %s is up: its probes go well again", self._worker.id)
        self._worker.clear(PROBE)
        if before == "down":
            self._on_return()

    def _pause(self) -> float | None:
        """Seconds until the next probe; None: until a call fails."""
        interval = self._settings.interval
        if self._vitals.hopeful or (self._vitals.state == "down" and self._expected() is None):
            return min(interval or ABSENT_INTERVAL, ABSENT_INTERVAL)
        if interval is None:
            return None
        return interval + interval * self._settings.jitter * random.uniform(-1, 1)

    async def _wait(self, seconds: float | None) -> None:
        """Wait, or until a call fails if that is sooner."""
        least = MIN_PAUSE if seconds is None else min(MIN_PAUSE, seconds)
        await asyncio.sleep(least)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else seconds - least):
                await self._wanted.wait()


def _shown(worker: Worker) -> State:
    condition = worker.conditions.get(PROBE)
    if condition is None:
        return "up"
    return "down" if condition.blocks else "suspect"
