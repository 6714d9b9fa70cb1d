"""One worker: its settings, its state, and the requests sent to it."""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

import msgspec

from gateway import config
from gateway.errors import CallError
from gateway.fleet.injection_support import Refusals, RefusedInjections, ScaleOut
from gateway.fleet.request import WorkerAnswer, request
from gateway.fleet.shed_load import ShedLoad
from gateway.fleet.slots import Slots
from gateway.fleet.times.outlook import Absence
from gateway.headers import Headers
from gateway.upstream.pool import Pool, tls_context
from gateway.upstream.request import HeadTemplate

PROBE = "probe"
"""Owner of the condition of a worker that does not respond to its probes, or to connections."""

LATEST_WEIGHT = 1 / 8
"""Weight of the latest response in the means of a worker's times."""

DENIED_SECONDS = 10.0
"""Seconds for which a worker that rejected a model is avoided for it, if others serve it."""

MAX_DENIED = 64
MAX_DENIED_CHARS = 1_000
"""Models that a worker may deny at a time, and characters of a name: callers make names up."""


class Condition(msgspec.Struct, frozen=True):
    """Why a worker is not simply `up`, in the words of the condition's owner.

    `state` is one word (down, suspect, draining, ejected, half_open, quarantined); while the
    condition `blocks`, the worker gets no calls. `since` is Unix time.
    """

    state: str
    reason: str
    blocks: bool
    since: float


class WorkerInfo(msgspec.Struct, kw_only=True):
    """A worker as the admin interface shows it; calls go to `url` + `api_path`.

    `state` is `up`, or the state of one of the `conditions`, of a blocking one if there is any;
    `conditions` are by owner. `ttft` and `duration` are exponential moving averages of the times of
    its responses without errors, in seconds. `refused_injections` is what the gateway does not
    inject now because the worker rejected it, as one process has learned it. `hints`: what an
    operator may change at the worker.
    """

    worker_id: str
    url: str
    api_path: str = "/v1"
    model_name: str | None = None
    models: list[str] | None = None
    weight: int | float = 1
    healthy: bool = True
    state: str = "up"
    conditions: dict[str, Condition] = {}
    active_requests: int = 0
    limit: int | None = None
    weight_version: int | str | None = None
    last_error: str | None = None
    last_error_at: float | None = None
    ttft: float | None = None
    duration: float | None = None
    refused_injections: list[RefusedInjections] = []
    hints: list[str] = []


class Registry(Protocol):
    """The part of the workers' registry that one worker uses, see gateway.fleet.registry."""

    slots: Slots
    freed: list[Callable[["Worker"], None]]
    troubled: list[Callable[["Worker", CallError], None]]

    def refresh(self) -> None: ...
    def usual_duration(self) -> float: ...
    def called(self, model: str) -> str: ...


class Worker:
    """An inference server.

    `in_flight` counts the attempts that it is working on now, and `slots` has their limit. `models`
    are the names that it serves, None while unknown; `denied` are those that it rejected of late,
    each with whether its own list has lacked it since. `weight_version` is the version of the
    weights that it generates with, if a plugin follows the version. `header` is the response header
    that names this worker. `answered_at` and `failed_at` are the `time.monotonic()` of the latest
    attempts that went well and that failed. `barred` counts the plugins that let no attempt begin
    here now, and hold calls in `filter_workers`. `absence` is the time that it gets no calls.
    """

    remote: ClassVar[bool] = True
    """Whether it is a server: one that can be probed, and that can tell which models it serves."""

    def __init__(
        self,
        settings: config.Worker,
        timeouts: config.Timeouts,
        limits: config.ServerLimits,
        registry: Registry | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.settings = settings
        self.id = settings.worker_id
        self.url = settings.url
        self.slots = Slots(registry.slots if registry is not None else None)
        self.conditions: dict[str, Condition] = {}
        self.fit = True
        self.models = _named(settings)
        self.denied: dict[str, bool] = {}
        self.weight_version: int | str | None = None
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        self.ttft: float | None = None
        self.duration: float | None = None
        self.answered_at = self.failed_at = float("-inf")
        self.barred = 0
        self._shed = ShedLoad()
        self.absence = Absence()
        self.refusals = _refusals(settings)
        self.scale_out = ScaleOut(self.id)
        self.header = (b"x-gateway-worker", self.id.encode())
        self.pool = make_pool(settings, timeouts, limits) if pool is None else pool
        self._retired: list[Pool] = []
        self._registry = registry
        self._follow(settings)

    def _follow(self, settings: config.Worker) -> None:
        self.settings = settings
        self.api_path = settings.api_path
        self.model_name = settings.model_name
        self.weight = float(settings.weight)  # settings that are built in code may have an int
        self.head = HeadTemplate(
            urlsplit(settings.url).netloc,
            settings.headers,
            forward_credentials=settings.forward_authorization,
        )

    def change(self, settings: config.Worker, pool: Pool | None = None) -> None:
        """Apply other settings of the same id; `pool` is given if the way to the worker changed.

        Calls in flight end as they began. If the URL has changed, what was learnt from the old
        server (rejected injections, models, weight version) is forgotten.
        """
        old = self.settings
        self._follow(settings)
        if pool is not None:
            self.pool.retire()
            self._retired = [*(one for one in self._retired if len(one)), self.pool]
            self.pool = pool
        moved = settings.url != old.url
        if moved or (settings.inject, settings.engine) != (old.inject, old.engine):
            self.refusals = _refusals(settings)
        if moved or _named(settings) != _named(old):
            self.models = _named(settings)
        if moved:
            self.url, self.weight_version, self.denied = settings.url, None, {}

    @property
    def in_flight(self) -> int:
        return self.slots.used

    @property
    def load(self) -> float:
        """Attempts in flight, with one more, divided by the weight.

        An attempt that ended early because it failed counts on for about as long as others last:
        a worker is not fast because it fails.
        """
        used = self.slots.used + 1
        if self._shed.amount:
            return (used + self._shed.now()) / self.weight
        return used / self.weight

    def begin(self) -> bool:
        """Take a slot for an attempt; return False if none is left, or if the worker is barred."""
        return not self.barred and self.slots.take()

    def end(self) -> None:
        """Give the slot back."""
        self.slots.give()
        if self._registry is not None:
            for callback in self._registry.freed:
                callback(self)

    @property
    def busy(self) -> bool:
        """Whether any of its calls or connections is left."""
        return bool(self.in_flight or len(self.pool) or any(map(len, self._retired)))

    def leave(self) -> None:
        """Close its connections; those in use close when their exchanges end."""
        self.pool.retire()

    def close(self) -> None:
        """Close all its connections now."""
        for pool in (self.pool, *self._retired):
            pool.close()

    def adopt(self, registry: Registry) -> None:
        """Join `registry`, for a worker that was created before it."""
        self._registry = registry
        self.slots.above = registry.slots

    def mark(self, who: str, state: str, reason: str, *, blocks: bool = True) -> None:
        """Set the condition of `who` (a plugin's name); while it `blocks`, no calls come here."""
        self.conditions = {**self.conditions, who: Condition(state, reason, blocks, time.time())}
        self._judge()

    def clear(self, who: str) -> None:
        """Remove the condition of `who`, if there is one."""
        if who in self.conditions:
            self.conditions = {k: v for k, v in self.conditions.items() if k != who}
            self._judge()

    def _judge(self) -> None:
        self.fit = not any(condition.blocks for condition in self.conditions.values())
        if self.fit:
            self.absence.end(time.monotonic())
        else:
            self.absence.begin(time.monotonic())
        self.changed()

    def changed(self) -> None:
        """Report a change of its fitness, weight or models to the registry."""
        if self._registry is not None:
            self._registry.refresh()

    @property
    def names_models(self) -> bool:
        """Whether its settings name the models it serves, so that they need not be requested."""
        return _named(self.settings) is not None

    def serves(self, model: str) -> bool:
        return model not in self.denied and self.claims(model)

    def claims(self, model: str) -> bool:
        """Whether it has the model by its list or its settings, which may be old."""
        if self.models is None or model in self.models:
            return True
        return self._registry is not None and self._registry.called(model) in self.models

    def deny(self, model: str) -> None:
        """Note that it rejected a call because it does not have `model`; it forgets that in time.

        Its list alone does not end that earlier, unless the list lacked the model in between.
        """
        if len(self.denied) < MAX_DENIED and len(model) <= MAX_DENIED_CHARS:
            if model not in self.denied:
                asyncio.get_running_loop().call_later(DENIED_SECONDS, self._forget, model)
            self.denied[model] = False
            self.changed()

    def learn_models(self, models: frozenset[str] | None) -> None:
        """Take over its own list of models, None if it has none, and report any change."""
        listed = models or frozenset()
        back = [model for model, lacked in self.denied.items() if lacked and model in listed]
        self.denied = {
            model: lacked or (models is not None and model not in listed)
            for model, lacked in self.denied.items()
            if model not in back
        }
        if models != self.models or back:
            self.models = models
            self.changed()

    def _forget(self, model: str) -> None:
        if self.denied.pop(model, None) is not None:
            self.changed()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Headers = (),
        timeout: float = 30.0,  # noqa: ASYNC109  it raises UpstreamTimeout
    ) -> WorkerAnswer:
        """Send a request to the server itself with its configured headers; read the whole response.

        `path` may have a query; a path under /v1/ is taken as below its `api_path`. It takes no
        slot. `timeout` is in seconds. Raises UpstreamError or UpstreamTimeout if no
        response came.
        """
        plain, _, query = path.partition("?")
        target = self.target(plain, query.encode("latin-1"))
        head = self.head.fill(method, target, headers, "gateway", len(body), readable=True)
        return await request(self.pool, head + body, head_only=method == "HEAD", timeout=timeout)

    def record_failure(self, seconds: float, fault: str | None) -> None:
        """Record an attempt that ended in an error after `seconds`.

        `fault` is shown to operators: an error code or the status, None if it was no fault of the
        worker.
        """
        if self._registry is not None:
            self._shed.add(seconds, self._registry.usual_duration())
        if fault is not None:
            self.last_error, self.last_error_at = fault, time.time()
            self.failed_at = time.monotonic()

    def report(self, error: CallError) -> None:
        """Report the error of an attempt to those who watch workers."""
        if self._registry is not None:
            for callback in self._registry.troubled:
                callback(self, error)

    def record_times(self, ttft: float, duration: float, ended: float) -> None:
        """Record an attempt without an error, which `ended` at that `time.monotonic()`.

        `ttft` and `duration` are in seconds from its start.
        """
        self.answered_at = ended
        if self.ttft is None or self.duration is None:
            self.ttft, self.duration = ttft, duration
        else:
            self.ttft += (ttft - self.ttft) * LATEST_WEIGHT
            self.duration += (duration - self.duration) * LATEST_WEIGHT

    def info(self) -> WorkerInfo:
        weight = self.weight  # rllm's clients accept only an integer
        blocking = [one for one in self.conditions.values() if one.blocks]
        others = [*blocking, *self.conditions.values()]
        return WorkerInfo(
            worker_id=self.id,
            url=self.url,
            api_path=self.api_path,
            model_name=self.model_name,
            models=None if self.models is None else sorted(self.models),
            weight=int(weight) if weight.is_integer() and weight < 1 << 53 else weight,
            healthy=self.fit,
            state=others[0].state if others else "up",
            conditions=self.conditions,
            active_requests=self.in_flight,
            limit=self.slots.limit,
            weight_version=self.weight_version,
            last_error=self.last_error,
            last_error_at=self.last_error_at,
            ttft=self.ttft,
            duration=self.duration,
            refused_injections=list(self.refusals.all()),
            hints=self.scale_out.hints(),
        )

    def target(self, path: str, query: bytes) -> str:
        """Return the path and query of a call on this worker: `/v1/...` is below its `api_path`."""
        if path.startswith("/v1/"):
            path = self.api_path + path[3:]
        return f"{path}?{query.decode('latin-1')}" if query else path


def _refusals(settings: config.Worker) -> Refusals:
    return Refusals(settings.worker_id, inject=settings.inject, engine=settings.engine)


def _named(settings: config.Worker) -> frozenset[str] | None:
    names = frozenset((*settings.models, *((settings.model_name,) if settings.model_name else ())))
    return names or None


Contexts = dict[config.TLS, ssl.SSLContext]
"""TLS contexts to share: each takes some 20 ms to load the system's certificate authorities."""


def make_pool(
    settings: config.Worker,
    timeouts: config.Timeouts,
    limits: config.ServerLimits,
    contexts: Contexts | None = None,
) -> Pool:
    """Create a worker's connection pool. Raises OSError if the TLS files cannot be used."""
    parts = urlsplit(settings.url)
    secure = parts.scheme == "https"
    tls = settings.tls or config.TLS()
    made = {} if contexts is None else contexts
    if secure and tls not in made:
        made[tls] = tls_context(tls)
    return Pool(
        parts.hostname or "",
        parts.port or config.DEFAULT_PORTS[parts.scheme],
        limits=limits,
        connect=timeouts.connect,
        keepalive=timeouts.keepalive,
        tls=made[tls] if secure else None,
    )
