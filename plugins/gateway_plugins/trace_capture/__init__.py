"""Records every call with the tokens that the engine sampled, and commits it before the last byte.

`recording/` collects the response of a call and makes a record of it, with `answers/`, which
parses responses. `store/` stores records and reads them as traces. `sequences/` finds which turn
continues which, and builds trajectories. `sessions/` has sessions and rewards. `training/` counts
what can be trained on, `handover/` hands trajectories over, each to one trainer, and `exports/`
writes them to files. `http/` serves trainers, and `cli/` is the command line. `tito/` carries chats
as token ids. `codec.py` has the storage formats. No room imports one that is named after it in this
order: codec; answers, sequences, sessions; recording; training; store; handover, tito, exports;
http and cli.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import (
    Call,
    ConfigError,
    Database,
    Host,
    Migrations,
    Sample,
    StorageError,
    StorageUnavailable,
    Trace,
    Translation,
    hookimpl,
)
from gateway_plugins.trace_capture.answers.assembly import api_at
from gateway_plugins.trace_capture.handover import queue
from gateway_plugins.trace_capture.http.admin import WEIGHT_VERSION
from gateway_plugins.trace_capture.http.routes import capture_routes
from gateway_plugins.trace_capture.recording.carried import CARRIED
from gateway_plugins.trace_capture.recording.hooks import Hooks
from gateway_plugins.trace_capture.recording.observer import Capture
from gateway_plugins.trace_capture.sessions import sessions
from gateway_plugins.trace_capture.sessions.caps import applied
from gateway_plugins.trace_capture.sessions.sampling_params import Params, SessionOptions
from gateway_plugins.trace_capture.store import deletions, queries
from gateway_plugins.trace_capture.store.facts_of_old import fill_facts
from gateway_plugins.trace_capture.store.retention import Retention, RetentionLimits
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from gateway_plugins.trace_capture.store.sink import TraceSink
from gateway_plugins.trace_capture.tito.bridges import Bridges, Renderer
from gateway_plugins.trace_capture.tito.carrying import Carrier, Mode

log = logging.getLogger("gateway.trace_capture")

MIB = 1024 * 1024

INJECTIONS: tuple[Literal["token_ids", "logprobs", "usage"], ...] = (
    "token_ids",
    "logprobs",
    "usage",
)


class TraceCapture:
    """The trace_capture plugin."""

    after = ("sessions", "stored_responses", "translate")

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """Fields to inject, size limits, and retention limits.

        `token_ids`, `logprobs` and `usage`: whether to inject each if the caller did not request
        it. `wire_responses`: whether traces have the bytes of responses, too. At most
        `max_answer_bytes` of a response are kept. At most `max_queued` traces wait for
        `trace_recorded` hooks. Sessions without a call for `keep_days` days are deleted. The
        sessions that were idle longest are deleted while there are more than `keep_sessions`, or
        while the file has more than `keep_bytes` in use. A claim of a trajectory holds for at most
        `max_lease` seconds, unless it is extended. `tito` is the mode of token-in/token-out
        of sessions that do not set it themselves, and `tito_renderers` are the models that the
        package renderers renders.
        """

        renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
            "0.2": {"offered": "max_queued"}
        }

        token_ids: bool = True
        logprobs: bool = True
        usage: bool = True
        wire_responses: bool = False
        max_answer_bytes: Annotated[int, Meta(gt=0)] = 64 * MIB
        max_queued: Annotated[int, Meta(gt=0)] = 1_000
        keep_days: Annotated[float, Meta(gt=0)] | None = None
        keep_sessions: Annotated[int, Meta(gt=0)] | None = None
        keep_bytes: Annotated[int, Meta(gt=0)] | None = None
        max_lease: Annotated[float, Meta(gt=0, le=86_400)] = 3_600.0
        tito: Mode = "off"
        tito_renderers: Mapping[str, Renderer] = msgspec.field(default_factory=dict)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.weight_version: int | None = None
        self.claim_counts: Counter[str] = Counter()
        self.hooks = Hooks(config.max_queued)
        self.sink = TraceSink(self.hooks)
        self._injected = _injected(config)
        self._options: SessionOptions | None = None
        self._retention: Retention | None = None
        self._carrier: Carrier | None = None
        self._bridges = Bridges(config.tito_renderers)

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        if config.tito_renderers != self.config.tito_renderers:
            try:
                self._bridges = Bridges(config.tito_renderers)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        # The sink is kept: of two sinks, each would miss what the other one deletes.
        self.config = config
        self._injected = _injected(config)
        if self._carrier is not None:
            self._carrier.set_bridges(self._bridges)
        self.hooks.set_queue_size(config.max_queued)
        if self._retention is not None:
            self._retention.set_limits(_retention_limits(config))

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return capture_routes(gateway, self)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self.sink.use(gateway.kernel)
        self._options = SessionOptions(gateway.storage.connect)
        self._carrier = Carrier(gateway, self._bridges)
        self.hooks.start(gateway)
        await self._follow_weight_version(gateway)
        self._retention = Retention(
            gateway.storage, _retention_limits(self.config), self.sink.invalidate_cache
        )
        tasks = [
            asyncio.create_task(self._retention.run()),
            asyncio.create_task(fill_facts(gateway.storage)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(StorageUnavailable):  # the storage reports that itself
                await gateway.storage.flush()
            await asyncio.to_thread(self.hooks.stop)
            self._options.close()

    async def _follow_weight_version(self, gateway: Host) -> None:
        """Load the version set before the restart; reload it when another process sets one."""

        async def look(_: bytes) -> bytes:
            self.weight_version = await _last_weight_version(gateway)
            return b""

        gateway.peers.handle(WEIGHT_VERSION, look)
        await look(b"")

    def delete_sessions(self, db: Database, session_ids: Sequence[str], owner: str | None) -> int:
        """Delete sessions within a transaction of the writer; return the number of their traces.

        The traces of calls that have begun by now and end later are not stored. Only the sessions
        of `owner` are deleted; any owner's if `owner` is None.
        """
        deletions.mark(db, session_ids, owner)
        deleted = queries.delete_sessions(db, session_ids, owner)
        self.sink.losses.forget(session_ids, owner)
        self.sink.invalidate_cache()
        return deleted

    def forget_options(self, session_id: str) -> None:
        """Forget the session's cached options: they were set, or the session was deleted."""
        if self._options is not None:
            self._options.forget(session_id)
        if self._carrier is not None:
            self._carrier.turns.forget(session_id)

    def lost_count(self, session_id: str, caller: str | None) -> int:
        """Number of the session's traces that could not be stored and are not yet in the file.

        With `caller`, 0 if another principal made the first of these calls.
        """
        return self.sink.losses.count(session_id, caller)

    def reclaim_soon(self) -> None:
        """Return the space of deleted sessions to the file system soon."""
        if self._retention is not None:
            self._retention.clean_soon()

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Traces that are committed, by verdict."
        for verdict in ("COMPLETE", "INCOMPLETE"):
            count, labels = self.sink.committed[verdict], {"verdict": verdict}
            yield Sample("gateway_traces_total", "counter", count, help_, labels)
        yield from self.sink.totals.samples()
        help_ = "Traces that could not be stored."
        yield Sample("gateway_traces_lost_total", "counter", self.sink.lost_count, help_)
        help_ = "Traces that were not stored: their session was deleted while the call ran."
        yield Sample("gateway_traces_late_total", "counter", self.sink.late_count, help_)
        help_ = "Traces that a trace_recorded hook was too slow for."
        yield Sample("gateway_traces_not_offered_total", "counter", self.hooks.dropped, help_)
        yield from queue.samples(self.claim_counts)

    @hookimpl
    def read_traces(self, db: Database, since: float, until: float) -> Iterator[Trace]:
        return queries.select(db, queries.TraceFilter(since=since, until=until))

    @hookimpl
    def translate(self, call: Call) -> Awaitable[Translation | None] | None:
        session_id, carrier, options = call.session_id, self._carrier, self._options
        if session_id is None or carrier is None or options is None or not captured(call):
            return None
        found = options.of(session_id)
        mode = self.config.tito if found.tito is None else found.tito
        if mode == "off" or call.api is None or call.api.name != "chat":
            return None
        return carrier.carry(call, found.params, required=mode == "require")

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None] | None:
        if not captured(call):
            return None
        params = None
        tito = call.state.get(CARRIED)
        if tito is not None and tito.request is not None:
            pass  # they are in what was rendered
        elif call.session_id is not None and self._options is not None:
            params = self._options.sampling_params(call.session_id)
        data = call.body.data
        if params or data is None or data[:1] != b"{" or b"\0" in data[:64]:
            return self._prepare(call, params)
        return call.inject(*self._injected) if self._injected else None

    async def _prepare(self, call: Call, params: Params | None) -> None:
        if not await call.body.is_object():
            if params and call.dialect is not None:
                await call.json()  # raises: an engine may read it, and the caps would not hold
            return  # the request cannot be changed
        if params:
            for name, value in applied(params, call.api, await call.json()).items():
                await call.set(name, value)
        if self._injected:
            await call.inject(*self._injected)

    @hookimpl
    def observe(self, call: Call) -> Capture | None:
        if not captured(call):
            return None
        config, tito = self.config, call.state.get(CARRIED)
        return Capture(
            call,
            self.sink,
            config.max_answer_bytes,
            self.weight_version,
            tito,
            keeps_bytes=config.wire_responses,
        )


def _injected(config: TraceCapture.Config) -> list[Literal["token_ids", "logprobs", "usage"]]:
    return [name for name in INJECTIONS if getattr(config, name)]


def _retention_limits(config: TraceCapture.Config) -> RetentionLimits:
    return RetentionLimits(config.keep_days, config.keep_sessions, config.keep_bytes)


async def _last_weight_version(gateway: Host) -> int | None:
    """Return the version set last, also before a restart; None if none was, or on an error."""
    try:
        version: int | None = await gateway.storage.read(
            lambda db: sessions.setting(db, "weight_version")
        )
    except StorageError as error:
        log.error("the weight version cannot be read, traces have none until it is set: %s", error)
        return None
    return version


def captured(call: Call) -> bool:
    """Whether the call is recorded: any POST to an API, unless it is known to sample nothing.

    A path that the gateway does not know is one of an API if it has `/v1/` in it. A plugin may say
    that a call is not to be recorded.
    """
    if call.method != "POST" or not call.recorded:
        return False
    api = api_at(call.path)
    return "/v1/" in call.path if api is None else not api.samples_nothing
