"""Records every call: the tokens that the engine sampled, committed before the last byte.

`capture.py` gathers in the event loop; all else happens in the writer's thread: `assembly.py` reads
the answer, `verdict.py` judges it, `record.py` makes the record, `leaning.py` the row, `sink.py`
stores it. `reading.py` and `store.py` give traces back, `trajectories.py` makes sequences of them,
`routes.py` answers trainers, `commands.py` is the command line.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from sqlite_utils.migrations import Migrations
from starlette.routing import BaseRoute

from gateway import Call, Gateway, Sample, StorageUnavailable, Trace, hookimpl
from gateway_plugins.trace_capture import sessions, store
from gateway_plugins.trace_capture.capture import Capture
from gateway_plugins.trace_capture.hooks import Hooks
from gateway_plugins.trace_capture.options import SessionOptions
from gateway_plugins.trace_capture.record import record
from gateway_plugins.trace_capture.retention import Keep, Retention
from gateway_plugins.trace_capture.routes import capture_routes
from gateway_plugins.trace_capture.schema import MIGRATIONS
from gateway_plugins.trace_capture.sink import TraceSink

log = logging.getLogger("gateway.trace_capture")

MIB = 1024 * 1024

INJECTIONS: tuple[Literal["token_ids", "logprobs", "usage"], ...] = (
    "token_ids",
    "logprobs",
    "usage",
)


class TraceCapture:
    """The plugin."""

    after = ("sessions",)

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """What is asked of the engine, what is kept, and for how long.

        `token_ids`, `logprobs` and `usage`: whether they are injected where the caller did not ask.
        `max_answer_bytes` of an answer are kept. `offered` traces
        may wait for `trace_recorded` hooks. Sessions that had no call for `keep_days` are deleted,
        and the oldest ones while there are more than `keep_sessions`, or the file has more than
        `keep_bytes` in use.
        """

        token_ids: bool = True
        logprobs: bool = True
        usage: bool = True
        max_answer_bytes: Annotated[int, Meta(gt=0)] = 64 * MIB
        offered: Annotated[int, Meta(gt=0)] = 1_000
        keep_days: Annotated[float, Meta(gt=0)] | None = None
        keep_sessions: Annotated[int, Meta(gt=0)] | None = None
        keep_bytes: Annotated[int, Meta(gt=0)] | None = None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.weight_version: int | None = None
        self.hooks = Hooks(config.offered)
        self.sink = TraceSink(record, self.hooks)
        self._wanted = _wanted(config)
        self._options: SessionOptions | None = None
        self._retention: Retention | None = None

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        # The sink stays: two of them would not know what the other one deletes.
        self.config = config
        self._wanted = _wanted(config)
        self.hooks.limit(config.offered)
        if self._retention is not None:
            self._retention.change(_keep(config))

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Gateway) -> list[BaseRoute]:
        return capture_routes(gateway, self)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        self._options = SessionOptions(gateway.storage.connect)
        self.hooks.start(gateway)
        await self._follow_weight_version(gateway)
        self._retention = Retention(gateway.storage, _keep(self.config), self.sink.forget)
        cleaning = asyncio.create_task(self._retention.run())
        try:
            yield
        finally:
            cleaning.cancel()
            with contextlib.suppress(StorageUnavailable):  # which says so itself, once closed
                await gateway.storage.flush()
            await asyncio.to_thread(self.hooks.stop)
            self._options.close()

    async def _follow_weight_version(self, gateway: Gateway) -> None:
        """Take over the one that was set before the restart, and each that others set."""

        async def look(_: bytes) -> bytes:
            self.weight_version = await _last_weight_version(gateway)
            return b""

        gateway.siblings.answer("weight version", look)
        await look(b"")

    def delete_sessions(
        self, db: sqlite3.Connection, session_ids: Sequence[str], owner: str | None
    ) -> int:
        """Delete those of the owner's, or of anybody's, within a transaction of the writer.

        Gives how many traces there were.
        """
        deleted = store.delete_sessions(db, session_ids, owner)
        if deleted:
            self.sink.forget()
        return deleted

    def changed(self, session_id: str) -> None:
        """The session's options were set, or it was deleted."""
        if self._options is not None:
            self._options.forget(session_id)

    def lost_of(self, session_id: str, caller: str | None) -> int:
        """Traces of the session that could not be stored, and that the file does not count yet.

        With `caller` only where the first of them was that one's.
        """
        return self.sink.losses.of(session_id, caller)

    def deleted(self) -> None:
        """Something was: its space is given back."""
        if self._retention is not None:
            self._retention.look()

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Traces that are committed, by verdict."
        for verdict in ("COMPLETE", "INCOMPLETE"):
            count, labels = self.sink.committed[verdict], {"verdict": verdict}
            yield Sample("gateway_traces_total", "counter", count, help_, labels)
        help_ = "Traces that could not be stored."
        yield Sample("gateway_traces_lost_total", "counter", self.sink.gone, help_)
        help_ = "Traces that a trace_recorded hook was too slow for."
        yield Sample("gateway_traces_not_offered_total", "counter", self.hooks.dropped, help_)

    @hookimpl
    def read_traces(self, db: sqlite3.Connection, since: float, until: float) -> Iterator[Trace]:
        return store.select(db, store.TraceFilter(since=since, until=until))

    @hookimpl
    async def prepare(self, call: Call) -> None:
        if not captured(call):
            return
        if not (await call.body.read())[:64].lstrip().startswith(b"{"):
            return  # not JSON: what is sent cannot be changed
        if call.session_id is not None and self._options is not None:
            for name, value in self._options.sampling_params(call.session_id).items():
                await call.set(name, value)
        if self._wanted:
            await call.inject(*self._wanted)

    @hookimpl
    def observe(self, call: Call) -> Capture | None:
        if not captured(call):
            return None
        return Capture(call, self.sink, self.config.max_answer_bytes, self.weight_version)


def _wanted(config: TraceCapture.Config) -> list[Literal["token_ids", "logprobs", "usage"]]:
    return [name for name in INJECTIONS if getattr(config, name)]


def _keep(config: TraceCapture.Config) -> Keep:
    return Keep(config.keep_days, config.keep_sessions, config.keep_bytes)


async def _last_weight_version(gateway: Gateway) -> int | None:
    """The one that was set last, also before a restart."""
    try:
        version: int | None = await gateway.storage.read(
            lambda db: sessions.setting(db, "weight_version")
        )
    except (sqlite3.Error, StorageUnavailable) as error:
        log.error("the weight version cannot be read, traces have none until it is set: %s", error)
        return None
    return version


def captured(call: Call) -> bool:
    """Whether it is a call for an answer of a model: any POST that is carried as an API's call."""
    return call.method == "POST" and "/v1/" in call.path
