"""The workers of this gateway: what is configured, what is in flight, and the core's own choice."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway import config
from gateway.errors import ConfigError
from gateway.upstream.pool import Pool, tls_context
from gateway.upstream.request import HeadTemplate


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

    def target(self, path: str, query: bytes) -> str:
        """Where on this worker a call's path is: `/v1/...` lies under its `api_path`."""
        if path.startswith("/v1/"):
            path = self.api_path + path[3:]
        return f"{path}?{query.decode('latin-1')}" if query else path


class Workers:
    """The registry: `all` of them, in the order of the configuration."""

    def __init__(self, settings: config.Config) -> None:
        problems = []
        self.all: list[Worker] = []
        self._turn = 0
        for worker in settings.workers:
            try:
                self.all.append(Worker(worker, settings.timeouts, settings.limits))
            except OSError as error:
                problems.append(f"workers: {worker.worker_id}: tls: {error}")
        if problems:
            raise ConfigError(*problems)

    def least_loaded(self, workers: Sequence[Worker]) -> Worker:
        """The core's own choice: least in flight for its weight, equal ones in turn."""
        if len(workers) == 1:
            return workers[0]
        self._turn = start = (self._turn + 1) % len(workers)
        rotated = [*workers[start:], *workers[:start]]
        return min(rotated, key=lambda worker: (worker.in_flight + 1) / worker.weight)

    def close(self) -> None:
        for worker in self.all:
            worker.pool.close()
