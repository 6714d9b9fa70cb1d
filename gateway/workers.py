"""The workers of this gateway: what is configured, what is in flight, and the core's own choice."""

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from gateway import config
from gateway.errors import ConfigError
from gateway.refusing import Refusals
from gateway.upstream.pool import Pool, tls_context
from gateway.upstream.request import HeadTemplate


class WorkerInfo(msgspec.Struct, kw_only=True):
    """A worker as the admin interface tells of it; calls go to `url` + `api_path`."""

    worker_id: str
    url: str
    api_path: str = "/v1"
    model_name: str | None = None
    weight: int | float = 1
    healthy: bool = True
    active_requests: int = 0


class Worker:
    """An inference server. `in_flight` counts the attempts it is now working on.

    `header` tells callers that it was this one.
    """

    def __init__(
        self, settings: config.Worker, timeouts: config.Timeouts, limits: config.Limits
    ) -> None:
        self.id = settings.worker_id
        self.url = settings.url
        self.api_path = settings.api_path
        self.model_name = settings.model_name
        self.weight = settings.weight
        self.in_flight = 0
        self.refusals = Refusals(self.id, inject=settings.inject)
        self._removed = False
        self.header = (b"x-gateway-worker", self.id.encode())
        parts = urlsplit(settings.url)
        self.pool = Pool(
            parts.hostname or "",
            parts.port or (443 if parts.scheme == "https" else 80),
            limits=limits,
            connect=timeouts.connect,
            keepalive=timeouts.keepalive,
            tls=tls_context(settings.tls or config.TLS()) if parts.scheme == "https" else None,
        )
        self.head = HeadTemplate(
            parts.netloc, settings.headers, forward_credentials=settings.forward_authorization
        )

    def begin(self) -> None:
        """An attempt at it begins."""
        self.in_flight += 1

    def end(self) -> None:
        """An attempt at it is over; with the last one a worker that was removed is closed."""
        self.in_flight -= 1
        if self._removed and not self.in_flight:
            self.pool.close()

    def leave(self) -> None:
        """Close its connections once nothing is in flight."""
        self._removed = True
        if not self.in_flight:
            self.pool.close()

    def info(self) -> WorkerInfo:
        weight = self.weight  # rllm's clients take an integer alone
        return WorkerInfo(
            worker_id=self.id,
            url=self.url,
            api_path=self.api_path,
            model_name=self.model_name,
            weight=int(weight) if weight.is_integer() and weight < 1 << 53 else weight,
            active_requests=self.in_flight,
        )

    def target(self, path: str, query: bytes) -> str:
        """Where on this worker a call's path is: `/v1/...` lies under its `api_path`."""
        if path.startswith("/v1/"):
            path = self.api_path + path[3:]
        return f"{path}?{query.decode('latin-1')}" if query else path


class Workers:
    """The registry. `all` are those that take calls, in the order in which they came.

    A change puts a new list in the place of `all`, so that who goes through the old one may go on.
    """

    def __init__(self, settings: config.Config) -> None:
        problems = []
        self.all: list[Worker] = []
        self._settings = settings
        self._leaving: list[Worker] = []
        self._turn = 0
        for worker in settings.workers:
            try:
                self.add(worker)
            except OSError as error:
                problems.append(f"workers: {worker.worker_id}: tls: {error}")
        if problems:
            raise ConfigError(*problems)

    def add(self, worker: config.Worker) -> Worker:
        """From now on it takes calls.

        Raises ValueError where another has its id, OSError where its TLS files cannot be used.
        """
        if self.find(worker.worker_id) is not None:
            raise ValueError(f"there is a worker {worker.worker_id} already")
        added = Worker(worker, self._settings.timeouts, self._settings.limits)
        self.all = [*self.all, added]
        return added

    def remove(self, worker_id: str) -> Worker | None:
        """No call is sent to it any more; those in flight finish. None: there is none."""
        worker = self.find(worker_id)
        if worker is not None:
            self.all = [other for other in self.all if other is not worker]
            self._leaving = [*(other for other in self._leaving if other.in_flight), worker]
            worker.leave()
        return worker

    def find(self, worker_id: str) -> Worker | None:
        return next((worker for worker in self.all if worker.id == worker_id), None)

    def least_loaded(self, workers: Sequence[Worker]) -> Worker:
        """The core's own choice: least in flight for its weight, equal ones in turn."""
        if len(workers) == 1:
            return workers[0]
        self._turn = start = (self._turn + 1) % len(workers)
        rotated = [*workers[start:], *workers[:start]]
        return min(rotated, key=lambda worker: (worker.in_flight + 1) / worker.weight)

    def close(self) -> None:
        for worker in (*self.all, *self._leaving):
            worker.pool.close()
