"""gRPC's own health protocol: whether the process serves, and whether workers can take calls."""

import asyncio
from collections.abc import Iterable

from gateway import BadRequest, Host
from gateway_plugins.grpc.edge.context import Context, Gone
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import Code, Status

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"

MAX_WATCHERS = 1_000

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3

OK = Status(Code.OK)
CLOSED = Status(Code.UNAVAILABLE, "the gateway is shutting down", "draining", 0.0)


class Health:
    """Tells of `services`, and under "" of the process: as `/ready` and `/health` do.

    `look` tells those who watch, and is called for each change of a worker and when the gateway
    begins to shut down.
    """

    def __init__(self, host: Host, messages: Messages, services: Iterable[str]) -> None:
        self._host = host
        self._messages = messages
        self._services = frozenset(services)
        self._response = messages.type("grpc.health.v1.HealthCheckResponse")
        self._watchers = 0
        self._closed = False
        self._changed = asyncio.Event()
        host.workers.changed.append(self.look)

    def close(self) -> None:
        """Follow the workers no more, and end the RPCs of those who watch."""
        self._host.workers.changed.remove(self.look)
        self._closed = True
        self.look()

    def look(self) -> None:
        """Compare the status again for those who watch."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def status_of(self, service: str) -> int | None:
        """Return the status of a service; None if there is no such service."""
        if service and service not in self._services:
            return None
        if self._host.draining:
            return NOT_SERVING
        workers = self._host.workers
        serves = not service or workers.loads or any(worker.fit for worker in workers.all)
        return SERVING if serves else NOT_SERVING

    async def check(self, context: Context) -> tuple[Status, int]:
        """Answer one request."""
        try:
            status = self.status_of(await self._service(context))
        except BadRequest as error:
            return Status(Code.INVALID_ARGUMENT, error.message, error.code), 0
        if status is None:
            return Status(Code.NOT_FOUND, "there is no such service", "not_found"), 0
        await context.send(self._response(status=status).SerializeToString())
        return OK, 1

    async def watch(self, context: Context) -> tuple[Status, int]:
        """Answer whenever the status has changed, until the caller leaves."""
        if self._watchers >= MAX_WATCHERS:
            return Status(Code.RESOURCE_EXHAUSTED, "too many callers watch", "too_many_calls"), 0
        self._watchers += 1
        try:
            await self._tell(await self._service(context), context)
            return CLOSED, 1
        except BadRequest as error:
            return Status(Code.INVALID_ARGUMENT, error.message, error.code), 0
        except (Gone, asyncio.CancelledError):
            return Status(Code.CANCELLED, "the caller left", "caller_gone"), 0
        finally:
            self._watchers -= 1

    async def _tell(self, service: str, context: Context) -> None:
        told = None
        while not self._closed:
            changed = self._changed
            status = self.status_of(service) or SERVICE_UNKNOWN
            if status != told:
                await context.send(self._response(status=status).SerializeToString())
                told = status
            await changed.wait()

    async def _service(self, context: Context) -> str:
        message = await context.read() or b""
        name: str = self._messages.read("grpc.health.v1.HealthCheckRequest", message).service
        return name
