"""Periodic health probes of the workers, and requests for the models that they serve."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import msgspec

from gateway import config
from gateway.errors import NOT_JSON, CallError
from gateway.fleet.probing.pulse import Pulse
from gateway.fleet.registry import Workers
from gateway.fleet.request import WorkerAnswer
from gateway.fleet.worker import Worker

log = logging.getLogger("gateway.probes")

MAX_MODELS = 1_000
MAX_NAME_CHARS = 1_000
"""A worker's list of models is ignored if it exceeds a limit (names; characters per name)."""

MAX_RETRY_DELAY = 5.0
"""Maximum time in seconds until a failed request for a worker's models is repeated."""

MIN_ROUND_INTERVAL = 1.0
"""Minimum time in seconds between two rounds that request all workers' models for a missing one."""

ROUND_TIMEOUT = 2.0
"""Maximum time in seconds that a call waits for such a round."""

STARTUP_TIMEOUT = 1.0
"""Maximum time in seconds that the start waits for the models of several workers."""


class Prober:
    """Probes each worker in `workers` between entry and exit, and follows additions and removals.

    A worker that fails its probes or refuses connections has the condition `probe`, see
    gateway.fleet.probing. If the settings of a worker name no models, `Worker.models` follows its
    own list.
    """

    def __init__(self, workers: Workers, settings: config.Probes) -> None:
        self._workers = workers
        self._settings = settings
        self._watched: dict[Worker, _Watch] = {}
        self._seen: tuple[Worker, ...] = ()
        self._ended: set[asyncio.Task[None]] = set()
        self._round: asyncio.Task[None] | None = None
        self._round_begun = 0.0
        self._running = False

    async def __aenter__(self) -> Self:
        self._running = True
        self._workers.changed.append(self._follow)
        self._workers.troubled.append(self._note_trouble)
        self._workers.refresh_models = self.refresh_models
        self._workers.look_again = self._look_again
        self._follow()
        if self._settings.models_interval is not None and len(self._watched) > 1:
            await self._first_look()
        return self

    async def _first_look(self) -> None:
        """Wait for the models: the first calls of a mixed fleet must reach the right workers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STARTUP_TIMEOUT):
                for watch in list(self._watched.values()):
                    await watch.fetched_once.wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running = False
        self._workers.changed.remove(self._follow)
        self._workers.troubled.remove(self._note_trouble)
        self._unwatch(list(self._watched))
        if self._round is not None:
            self._end(self._round)
        await asyncio.gather(*self._ended, return_exceptions=True)

    def change(self, settings: config.Probes) -> None:
        """Apply these settings from now on; a worker that is down stays down until it rises."""
        if settings == self._settings:
            return
        self._settings = settings
        if self._running:
            self._unwatch(list(self._watched))
            self._seen = ()
            self._follow()

    async def refresh_models(self) -> None:
        """Request the models of all fit workers, because a call names a model that none serves.

        Callers within MIN_ROUND_INTERVAL seconds share one round. Waits for the round for at most
        ROUND_TIMEOUT seconds.
        """
        if self._settings.models_interval is None or not self._running:
            return
        now = asyncio.get_running_loop().time()
        if self._round is None or (
            self._round.done() and now - self._round_begun >= MIN_ROUND_INTERVAL
        ):
            self._round_begun = now
            self._round = asyncio.create_task(self._ask_all())
        await asyncio.wait([self._round], timeout=ROUND_TIMEOUT)

    def _look_again(self, worker: Worker) -> None:
        watch = self._watched.get(worker)
        if watch is not None:
            watch.refresh_now.set()

    async def _ask_all(self) -> None:
        asked = [watch.fetch_models() for worker, watch in self._watched.items() if worker.fit]
        await asyncio.gather(*asked)

    def _follow(self) -> None:
        workers = self._workers.all
        if workers is self._seen:
            return
        self._seen = workers
        self._unwatch([worker for worker in self._watched if worker not in workers])
        for worker in workers:
            if not worker.remote:
                continue
            if worker not in self._watched:
                self._watched[worker] = _Watch(worker, self._settings, self._workers.is_last)
            elif worker.models is None:
                self._watched[worker].refresh_now.set()

    def _note_trouble(self, worker: Worker, error: CallError) -> None:
        if worker in self._watched:
            self._watched[worker].pulse.call_failed(error)

    def _unwatch(self, workers: list[Worker]) -> None:
        for worker in workers:
            for task in self._watched.pop(worker).tasks:
                self._end(task)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._ended.add(task)
        task.add_done_callback(self._ended.discard)
        task.cancel()


class _Watch:
    """Follows one worker, by the asyncio tasks in `tasks`.

    Set `refresh_now` to request its models now. `fetched_once` is set after the first such request.
    """

    def __init__(
        self, worker: Worker, settings: config.Probes, is_last: Callable[[Worker], bool]
    ) -> None:
        self.refresh_now = asyncio.Event()
        self.fetched_once = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self._worker = worker
        self._settings = settings
        self.pulse = Pulse(worker, settings, is_last, self.refresh_now.set)
        self._start(self.pulse.run())
        if settings.models_interval is not None:
            self._start(self._ask_on(settings.models_interval))

    def _start(self, running: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(running)
        task.add_done_callback(self._note_end)
        self.tasks.append(task)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("worker %s is watched no more", self._worker.id, exc_info=error)

    async def _ask_on(self, interval: float) -> None:
        while True:
            self.refresh_now.clear()
            pause = interval if await self.fetch_models() else min(interval, MAX_RETRY_DELAY)
            self.fetched_once.set()
            if self._worker.denied:
                pause = min(pause, MIN_ROUND_INTERVAL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.refresh_now.wait()

    async def fetch_models(self) -> bool:
        """Request its models, unless its settings name them; return False if the request failed."""
        worker = self._worker
        if worker.names_models:
            return True
        url = worker.url
        try:
            answer = await self._ask("/v1/models")
        except CallError:
            return False
        if answer.status >= 500 or answer.status == 429:
            return False
        if url == worker.url and not worker.names_models:  # its settings may have changed meanwhile
            body = answer.body if answer.status == 200 else b""
            worker.learn_models(read_models(body))
            worker.refusals.engine.note_owner(read_owner(body))
        return True

    async def _ask(self, path: str) -> WorkerAnswer:
        return await self._worker.request("GET", path, timeout=self._settings.timeout)


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class _Owned(msgspec.Struct):
    owned_by: str = ""


class _Owners(msgspec.Struct):
    data: list[_Owned] = []


def read_models(body: bytes) -> frozenset[str] | None:
    """Parse the names in a `/v1/models` response; None if it is not one, or exceeds the limits.

    An empty list is None as well. The names include those of LoRA adapters (vLLM, SGLang).
    """
    try:
        found = msgspec.json.decode(body, type=_Models).data
    except NOT_JSON:
        return None
    names = frozenset(model.id for model in found[: MAX_MODELS + 1])
    if len(found) > MAX_MODELS or any(len(name) > MAX_NAME_CHARS for name in names):
        return None
    return names or None


def read_owner(body: bytes) -> str:
    """Parse who owns the first model of a `/v1/models` response: engines write their own name.

    "" if none does, or if it is no such response.
    """
    try:
        found = msgspec.json.decode(body, type=_Owners).data
    except NOT_JSON:
        return ""
    return found[0].owned_by if found else ""
