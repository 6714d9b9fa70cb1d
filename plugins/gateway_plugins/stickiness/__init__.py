"""Sends the calls of a session to the worker that has its cache, by one of several policies.

`keys.py` finds the key of a call, `openings.py` how its prompt begins, and `policies.py` chooses a
worker for the key: on the ring (`ring.py`), from memory (`pins.py`), or in turn (`turns.py`).
`views.py` caches what is derived from the workers until they change. `routes.py` explains a choice.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import Call, ControlRequest, Host, NotFound, StateKey, Worker, hookimpl
from gateway_plugins.stickiness.keys import KeyReader
from gateway_plugins.stickiness.pins import Pins
from gateway_plugins.stickiness.policies import (
    ConsistentHash,
    LeastLoaded,
    Policy,
    PowerOfTwo,
    RoundRobin,
)
from gateway_plugins.stickiness.ring import KeyPoints
from gateway_plugins.stickiness.routes import Route, RouteQuery, explain, key_of
from gateway_plugins.stickiness.views import Views

POINT = StateKey[int | None]("stickiness.point")
"""Point of the key that was found in the body, for a retry of the call."""

HEADER = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+(?![\s\S])"
"""Pattern of a header's name."""


class Stickiness:
    """The plugin."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """How calls are recognised, and how a worker is chosen for them.

        A call without a session is recognised by `header`, else by the first of `fields` in its
        body, else by the first `prefix_chars` characters of its prompt or first messages; null, an
        empty list and 0 turn these off.

        `load_factor` and `spill_above` belong to `consistent_hash`: the policy skips a worker, for
        the next one on the ring, while the worker has at least `load_factor` times its share of all
        attempts in flight, and at least `spill_above`; it never does if `load_factor` is null.
        `max_sessions` and `ttl`, in seconds, belong to `least_loaded`: how many sessions it
        remembers, and for how long without a call.
        """

        policy: Literal["consistent_hash", "least_loaded", "power_of_two", "round_robin"] = (
            "consistent_hash"
        )
        header: Annotated[str, Meta(pattern=HEADER)] | None = "x-session-id"
        fields: tuple[Annotated[str, Meta(min_length=1)], ...] = ("prompt_cache_key", "user")
        prefix_chars: Annotated[int, Meta(ge=0)] = 200
        load_factor: Annotated[float, Meta(gt=1)] | None = 1.25
        spill_above: Annotated[int, Meta(ge=0)] = 8
        max_sessions: Annotated[int, Meta(gt=0)] = 1_000_000
        ttl: Annotated[float, Meta(gt=0)] = 3600.0

    def __init__(self, config: Config) -> None:
        self.pins = Pins(config.max_sessions, config.ttl)
        self._views: Views | None = None
        self._point_of = KeyPoints().of
        self.reconfigure(config)

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        """Replace the options; the sessions stay pinned to their workers."""
        self.config = config
        self.keys = KeyReader(config.header, config.fields, config.prefix_chars)
        self.pins.limit(config.max_sessions, config.ttl)
        self.policy = _policy(config, self.pins)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._views = views = Views(gateway.workers)
        gateway.workers.changed.append(views.forget)
        try:
            yield
        finally:
            gateway.workers.changed.remove(views.forget)

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [gateway.control("/admin/route", scope="admin", GET=self.explain)]

    @hookimpl
    def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        views = self._views
        if views is None:
            return None
        if len(workers) == 1 and not self.policy.remembers:
            return workers[0]
        point, session = None, call.session_id
        if self.policy.keyed:
            point = self._point_of("session", session) if session else self._point(call)
        view = views.whole
        return self.policy.pick(views.of_call(call) if view is None else view, point, workers)

    def _point(self, call: Call) -> int | None:
        """Return the point of a call without a session, None if it has no key."""
        key = self.keys.named(call)
        if key is not None:
            return self._point_of(key.kind, key.value)
        if POINT in call.state:
            return call.state[POINT]
        key = self.keys.of_request(call)
        point = call.state[POINT] = None if key is None else self._point_of(key.kind, key.value)
        return point

    async def explain(self, request: ControlRequest) -> Route:
        """Return which worker a key leads to now, and why."""
        query = request.query(RouteQuery)
        key = key_of(query, self.keys.prefix)
        if self._views is None:
            raise NotFound("the gateway has not started")
        return explain(self.policy, self.config.policy, self._views.of(query.model), key)


def _policy(config: Stickiness.Config, pins: Pins) -> Policy:
    if config.policy == "consistent_hash":
        return ConsistentHash(config.load_factor, config.spill_above)
    if config.policy == "least_loaded":
        return LeastLoaded(pins)
    return PowerOfTwo() if config.policy == "power_of_two" else RoundRobin()
