"""`trl vllm-serve` behind a gateway: TRL's own routes, and its weight updates for a fleet.

Supports both generations of TRL's server: up to 1.10 with routes of its own, from 1.11 on with
vLLM's. A request for one worker is a call like any other; a request about the weights is sent to
all workers.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway import (
    NOT_JSON,
    Answer,
    BadRequest,
    Call,
    ControlRequest,
    Headers,
    Host,
    Sample,
    Worker,
    Workers,
    hookimpl,
)
from gateway_plugins.weights.gate import Gate
from gateway_plugins.weights.metrics import samples_of
from gateway_plugins.weights.trl.broadcast import Broadcaster
from gateway_plugins.weights.trl.fleet import Fleet, WorkerStanding
from gateway_plugins.weights.trl.options import Options
from gateway_plugins.weights.trl.paths import BROADCASTS, CARRIED, GENERATIONS, SLASHLESS
from gateway_plugins.weights.trl.required_version import RequiredVersion

NAME = "trl"


class FleetStanding(msgspec.Struct):
    """`epoch` is the number of updates so far, `held` of the calls that wait for one to end."""

    epoch: int
    held: int
    workers: list[WorkerStanding]


class Running(msgspec.Struct, frozen=True):
    """Objects that exist while the gateway runs."""

    workers: Workers
    fleet: Fleet
    broadcaster: Broadcaster
    required: RequiredVersion


class Trl:
    """The plugin."""

    Config = Options
    one_process = "it holds calls of this process alone while weights change"

    def __init__(self, config: Options) -> None:
        self._options = config
        self._gate = Gate(
            length=config.max_held, wait=config.max_wait, comments=config.comment_interval
        )
        self._running: Running | None = None

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        also = (Route(short, _Renamed(gateway, path)) for short, path in SLASHLESS.items())
        return [
            *gateway.carry_also(*CARRIED),
            *gateway.carry_also(*BROADCASTS, scope="admin"),  # they change the weights
            *map(gateway.carried, also),
            gateway.guarded(Route("/health", _Health(gateway)), scope=None),
            gateway.control("/admin/trl", scope="monitor", GET=self._show),
        ]

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        workers, options = gateway.workers, self._options
        fleet = Fleet(workers, NAME)
        required = RequiredVersion(workers, options)
        broadcaster = Broadcaster(workers, fleet, self._gate, options, required.judge)
        self._running = Running(workers, fleet, broadcaster, required)
        try:
            async with _following(workers, fleet, required):
                yield
        finally:
            await broadcaster.close()
            self._running = None
            self._gate.open()

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        epoch = 0 if self._running is None else self._running.fleet.epoch
        return samples_of(NAME, epoch, self._gate)

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        """Raises ValueError if the gate's options change, because calls may wait at it."""
        if _gate_of(config) != _gate_of(self._options):
            raise ValueError(
                "max_held, max_wait and comment_interval of trl change only at a restart"
            )
        self._options = config
        if self._running is not None:
            self._running.broadcaster.options = config
            self._running.required.change(config)

    @hookimpl
    async def admit(self, call: Call) -> None:
        if call.path in GENERATIONS and call.method == "POST":
            await call.body.read()
            _refuse_bad_json(call.body.readable or b"")

    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        step = BROADCASTS.get(call.path)
        if step is None or self._running is None:
            return None
        if call.method != "POST":
            raise BadRequest(f"{call.path} takes POST alone")
        return await self._running.broadcaster.answer(call, step)

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        if self._gate.closed:
            await self._gate.passed(call)
        if not workers and not call.attempts and self._running is not None:
            self._running.required.check()
        return workers

    @hookimpl
    def observe(self, call: Call) -> object | None:
        return _Naming(call, self._running.workers) if self._running is not None else None

    async def _show(self, _: ControlRequest) -> FleetStanding:
        if self._running is None:
            return FleetStanding(0, 0, [])
        fleet = self._running.fleet
        return FleetStanding(fleet.epoch, self._gate.held, fleet.standings())


def _gate_of(options: Options) -> tuple[int, float, float | None]:
    return options.max_held, options.max_wait, options.comment_interval


class _Naming:
    """Names the worker in the headers of the response, as TRL's gateways do.

    The old client joins its group at the host in the X-Forwarded-For of /health/: correct with one
    worker, useless with several.
    """

    def __init__(self, call: Call, workers: Workers) -> None:
        self._call = call
        self._workers = workers

    def started(self, status: int, headers: Headers) -> None:
        worker = self._call.worker
        if worker is None:
            return
        self._call.add_header("X-Backend", worker.url)
        if self._call.path == "/health/" and len(self._workers.all) == 1:
            self._call.add_header("X-Forwarded-For", worker.settings.host)


class _Renamed:
    """Forwards a path without its last slash as if it had one: no caller needs a 307."""

    def __init__(self, gateway: Host, path: str) -> None:
        self._gateway = gateway
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.carry(scope, receive, send, path=self._path)


class _Health:
    """Responds with 200 once a worker can take calls: TRL's client first polls until then."""

    def __init__(self, gateway: Host) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fit = len(self._gateway.workers.serving().fit)
        text = f"{fit} workers can take calls" if fit else "no worker can take calls now"
        status = 200 if fit else 503
        body = msgspec.json.encode({"status": "ok" if fit else "unavailable", "reason": text})
        answer = Response(body, status, media_type="application/json")
        await answer(scope, receive, send)


@contextlib.asynccontextmanager
async def _following(
    workers: Workers, fleet: Fleet, required: RequiredVersion
) -> AsyncIterator[None]:
    """Notify both of each change of the workers, and poll the workers for their versions."""
    callbacks = (fleet.follow, required.follow)
    workers.changed.extend(callbacks)
    required.follow()
    watching = asyncio.create_task(required.watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait((watching,))
        for callback in callbacks:
            workers.changed.remove(callback)
        fleet.release()
        required.release()


class _Object(msgspec.Struct):
    """Any JSON object."""


def _refuse_bad_json(data: bytes) -> None:
    try:
        msgspec.json.decode(data, type=_Object)
    except NOT_JSON as error:
        message = f"the request body is not a valid JSON object: {error}"
        raise BadRequest(message, code="invalid_json") from None
