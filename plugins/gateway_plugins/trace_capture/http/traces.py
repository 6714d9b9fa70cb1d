"""Routes of traces and trajectories."""

import asyncio
import contextlib
import io
from collections.abc import Iterator
from typing import Literal

import msgspec
from starlette.responses import Response

from gateway import (
    BadRequest,
    ConfigError,
    ControlRequest,
    Database,
    Host,
    NotFound,
    Trace,
    Verdict,
)
from gateway_plugins.trace_capture.exports.formats import FORMATS, PARQUET, TRAINERS, file_of
from gateway_plugins.trace_capture.exports.output import Tally
from gateway_plugins.trace_capture.exports.parquet import ParquetFile
from gateway_plugins.trace_capture.exports.rows import TraceRow, TrajectoryRow, trace_row
from gateway_plugins.trace_capture.exports.sessions_out import (
    KINDS,
    SessionExport,
    Wanted,
)
from gateway_plugins.trace_capture.http.fields import SessionIdList, Timestamp, session_id_of
from gateway_plugins.trace_capture.http.paging import Paging, array
from gateway_plugins.trace_capture.sequences.forks import NO_FORK
from gateway_plugins.trace_capture.sequences.trajectories import trajectories
from gateway_plugins.trace_capture.sessions import rewards, sessions
from gateway_plugins.trace_capture.sessions.owners import visible_owner
from gateway_plugins.trace_capture.store import queries


class TraceQuery(Paging):
    """Filters; `session_ids` null selects all traces, also those without a session."""

    session_ids: SessionIdList | None = None
    until: Timestamp | None = None
    model: str | None = None
    worker: str | None = None
    weight_version: str | None = None
    verdict: Verdict | None = None


class TrajectoryQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`fork_kind`: the wanted kinds, separated by commas; None: all.

    `format`: that of a file, else `json`. `allow_incomplete`: the file has INCOMPLETE trajectories,
    too, as JSON always has.
    """

    fork_kind: str | None = None
    format: str = "json"
    allow_incomplete: bool = False

    def kinds(self) -> frozenset[str]:
        """Return the wanted kinds. Raises BadRequest if one of them is none."""
        wanted = KINDS if self.fork_kind is None else self.fork_kind.split(",")
        for unknown in set(wanted).difference(KINDS):
            raise BadRequest(
                f"{unknown!r} is no kind of fork: write some of {', '.join(KINDS)}",
                param="fork_kind",
            )
        return frozenset(wanted)

    def wanted(self, owner: str | None) -> Wanted:
        """Return what is exported. Raises BadRequest for a kind or a format that is none."""
        if self.format not in FORMATS:
            raise BadRequest(
                f"{self.format!r} is no format: write json, {', '.join(FORMATS)}", param="format"
            )
        return Wanted(kinds=self.kinds(), incomplete=self.allow_incomplete, owner=owner)


class TraceForm(msgspec.Struct, forbid_unknown_fields=True):
    """The form in which a trace is sent: an object, or a file with one row."""

    format: Literal["json", "parquet"] = "json"


class TraceRoutes:
    """Handlers for traces and trajectories."""

    def __init__(self, gateway: Host) -> None:
        self._gateway = gateway
        self._storage = gateway.storage

    async def get(self, request: ControlRequest) -> Trace | Response:
        form = request.query(TraceForm).format
        trace_id, owner = request.params["trace_id"], visible_owner(request)
        found = await self._storage.read(lambda db: queries.get(db, trace_id, owner))
        if found is None:
            raise NotFound("there is no such trace")
        if form == "json":
            return found
        data = await asyncio.to_thread(_parquet, found)
        name = f'attachment; filename="{found.trace_id}.parquet"'
        return Response(data, media_type=PARQUET, headers={"content-disposition": name})

    async def of_session(self, request: ControlRequest) -> Response:
        paging = request.query(Paging)
        filter_ = queries.TraceFilter(
            session_ids=(session_id_of(request),),
            since=paging.since,
            owner=visible_owner(request),
        )
        return await array(self._gateway, TraceList(filter_), paging, request.path)

    async def query(self, request: ControlRequest) -> Response:
        query = await request.json(TraceQuery)
        filter_ = queries.TraceFilter(
            session_ids=None if query.session_ids is None else tuple(query.session_ids),
            since=query.since,
            until=query.until,
            model=query.model,
            worker=query.worker,
            weight_version=query.weight_version,
            verdict=query.verdict,
            owner=visible_owner(request),
        )
        return await array(self._gateway, TraceList(filter_), query)

    async def trajectories(self, request: ControlRequest) -> Response:
        session_id, owner = session_id_of(request), visible_owner(request)
        query = request.query(TrajectoryQuery)
        if query.format != "json":
            return await self._file(session_id, query.format, query.wanted(owner))
        kinds = query.kinds()
        data = await self._storage.read(lambda db: _trajectories(db, session_id, owner, kinds))
        return Response(data, media_type="application/json")

    async def _file(self, session_id: str, form: str, wanted: Wanted) -> Response:
        data, tally = await self._storage.read(lambda db: _exported(db, session_id, form, wanted))
        file = file_of(form)
        headers = {
            "content-disposition": f'attachment; filename="trajectories.{file.suffix}"',
            "x-trajectories-left-out": str(tally.left_out),
        }
        return Response(data, media_type=file.media_type, headers=headers)


class TraceList:
    """The traces that match a filter, oldest first. A paging.Listing."""

    def __init__(self, filter_: queries.TraceFilter) -> None:
        self._filter = filter_

    def rows(self, db: Database, after: str | None) -> Iterator[tuple[str, bytes]]:
        with _checked_cursor():
            for trace in queries.select(db, self._filter, after=after):
                yield trace.trace_id, msgspec.json.encode(trace)

    def last_of_page(self, db: Database, after: str | None, limit: int) -> str | None:
        with _checked_cursor():
            return queries.last_of_page(db, self._filter, after=after, limit=limit)


@contextlib.contextmanager
def _checked_cursor() -> Iterator[None]:
    try:
        yield
    except LookupError:
        message = "the trace of this cursor is not there, or not any more; begin without one"
        raise BadRequest(message, param="cursor") from None


def _parquet(trace: Trace) -> bytes:
    """Return a file with the trace as its only row. Raises BadRequest if there can be none."""
    stream = io.BytesIO()
    try:
        file = ParquetFile(stream, TraceRow)
        file.write(trace_row(trace))
        file.close()
    except (ConfigError, ValueError) as error:
        raise BadRequest(f"this trace cannot be sent as Parquet: {error}", param="format") from None
    return stream.getvalue()


def _exported(db: Database, session_id: str, form: str, wanted: Wanted) -> tuple[bytes, Tally]:
    """Return a file of a session's trajectories. Raises BadRequest if a package is missing."""
    if not sessions.exists(db, session_id, wanted.owner):
        raise NotFound("there is no such session")
    stream = io.BytesIO()
    row_type = TRAINERS[form].row_type if form in TRAINERS else TrajectoryRow
    try:
        output = file_of(form).open(stream, row_type)
    except ConfigError as error:
        raise BadRequest(str(error), param="format") from None
    export = SessionExport(db, form, output, wanted)
    export.write(session_id)
    output.close()
    return stream.getvalue(), export.tally


def _trajectories(db: Database, session_id: str, owner: str | None, kinds: frozenset[str]) -> bytes:
    if not sessions.exists(db, session_id, owner):
        raise NotFound("there is no such session")
    wanted = queries.TraceFilter(session_ids=(session_id,), owner=owner)
    traces = list(queries.select(db, wanted))
    found = trajectories(session_id, traces, rewards.of_session(db, session_id))
    found.trajectories = [one for one in found.trajectories if (one.fork_kind or NO_FORK) in kinds]
    return msgspec.json.encode(found)
