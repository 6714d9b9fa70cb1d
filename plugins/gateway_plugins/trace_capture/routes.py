"""HTTP routes for trainers: sessions, traces, trajectories, rewards and weight versions."""

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Protocol
from urllib.parse import quote

import msgspec
from msgspec import Meta
from starlette.responses import Response
from starlette.routing import BaseRoute

from gateway import (
    BadRequest,
    ControlRequest,
    Gateway,
    NotFound,
    Reward,
    SessionInfo,
    Trace,
    Verdict,
)
from gateway_plugins.trace_capture import rewards, sessions, store
from gateway_plugins.trace_capture.owners import maker, owner_seen
from gateway_plugins.trace_capture.paging import Paging, Since, array
from gateway_plugins.trace_capture.trajectories import trajectories

LONGEST_ID = 4096
MOST_SESSIONS = 10_000
"""Maximum number of sessions that one request may name."""

AT_ONCE = 20
"""Sessions deleted per transaction; few, because the traces of calls wait for it."""

Ids = Annotated[list[str], Meta(max_length=MOST_SESSIONS)]


class Capturing(Protocol):
    """The part of the plugin object that the routes use."""

    weight_version: int | None

    def delete_sessions(
        self, db: sqlite3.Connection, session_ids: Sequence[str], owner: str | None
    ) -> int: ...
    def deleted(self) -> None: ...
    def changed(self, session_id: str) -> None: ...
    def lost_of(self, session_id: str, caller: str | None) -> int: ...


class NewSession(msgspec.Struct, forbid_unknown_fields=True):
    session_id: str | None = None
    metadata: dict[str, Any] | None = None
    sampling_params: dict[str, Any] | None = None


class SessionIds(msgspec.Struct, forbid_unknown_fields=True):
    session_ids: Ids


class TraceQuery(Paging):
    """Filters; `session_ids` null selects all traces, also those without a session."""

    session_ids: Ids | None = None
    until: Since | None = None
    model: str | None = None
    verdict: Verdict | None = None


class NewReward(msgspec.Struct, forbid_unknown_fields=True):
    value: float
    source: str = ""
    trace_id: str | None = None


class WeightVersion(msgspec.Struct, forbid_unknown_fields=True):
    weight_version: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


def capture_routes(gateway: Gateway, capture: Capturing) -> list[BaseRoute]:
    """Return the routes of the plugin; more specific paths come first."""
    control = partial(gateway.control, scope="sessions")
    of_sessions, of_traces = SessionRoutes(gateway, capture), TraceRoutes(gateway)
    admin = AdminRoutes(gateway, capture)
    return [
        control("/sessions", GET=of_sessions.list_all, POST=of_sessions.create),
        control("/sessions/batch_delete", POST=of_sessions.delete_many),
        control("/sessions/{session_id}/traces", GET=of_traces.of_session),
        control("/sessions/{session_id}/trajectories", GET=of_traces.trajectories),
        control("/sessions/{session_id}/rewards", GET=of_sessions.rewards, POST=of_sessions.reward),
        control("/sessions/{session_id}", GET=of_sessions.get, DELETE=of_sessions.delete),
        control("/traces/query", POST=of_traces.query),
        control("/traces/{trace_id}", GET=of_traces.get),
        control("/admin/flush", POST=admin.flush),
        gateway.control(
            "/admin/weight_version",
            scope="admin",
            GET=admin.weight_version,
            POST=admin.set_weight_version,
        ),
    ]


class SessionRoutes:
    """Routes for sessions and their rewards."""

    def __init__(self, gateway: Gateway, capture: Capturing) -> None:
        self._gateway = gateway
        self._storage = gateway.storage
        self._capture = capture

    async def create(self, request: ControlRequest) -> dict[str, str]:
        given = await request.json(NewSession)
        session_id = _checked(given.session_id) if given.session_id else str(uuid.uuid4())

        def put(db: sqlite3.Connection) -> None:
            sessions.put(
                db,
                session_id,
                now=time.time(),
                metadata=given.metadata,
                sampling_params=given.sampling_params,
                maker=maker(request),
                owner=owner_seen(request),
            )

        await self._storage.write(put)
        self._capture.changed(session_id)
        return {"session_id": session_id, "url": _url(session_id)}

    async def list_all(self, request: ControlRequest) -> Response:
        paging = request.query(Paging)
        listing = sessions.SessionList(paging.since, owner_seen(request))
        return await array(self._gateway, listing, paging, request.path)

    async def get(self, request: ControlRequest) -> SessionInfo:
        session_id, owner = request.params["session_id"], owner_seen(request)

        def look(db: sqlite3.Connection) -> tuple[SessionInfo | None, bool]:
            return sessions.get(db, session_id, owner), sessions.exists(db, session_id)

        found, taken = await self._storage.read(look)
        lost = self._capture.lost_of(session_id, owner if found is None else None)
        if lost and not taken:
            found = SessionInfo(session_id=session_id)
        if found is None:
            raise NotFound("there is no such session")
        found.lost += lost
        return found

    async def delete(self, request: ControlRequest) -> dict[str, int]:
        session_ids = [request.params["session_id"]]
        return {"deleted": await self._delete(session_ids, owner_seen(request))}

    async def delete_many(self, request: ControlRequest) -> dict[str, int]:
        session_ids = (await request.json(SessionIds)).session_ids
        return {"deleted": await self._delete(session_ids, owner_seen(request))}

    async def _delete(self, session_ids: list[str], owner: str | None) -> int:
        deleted = 0
        for start in range(0, len(session_ids), AT_ONCE):
            some = session_ids[start : start + AT_ONCE]
            deleted += await self._storage.write(
                partial(self._capture.delete_sessions, session_ids=some, owner=owner)
            )
            for session_id in some:
                self._capture.changed(session_id)
        self._capture.deleted()
        return deleted

    async def rewards(self, request: ControlRequest) -> Response:
        paging = request.query(Paging)
        session_id = (await self.get(request)).session_id
        listing = rewards.RewardList(session_id, paging.since, owner_seen(request))
        return await array(self._gateway, listing, paging, request.path)

    async def reward(self, request: ControlRequest) -> Reward:
        given = await request.json(NewReward)
        session_id, owner = request.params["session_id"], owner_seen(request)
        reward = Reward(
            value=given.value,
            source=given.source,
            trace_id=given.trace_id,
            timestamp=time.time(),
        )
        await self._storage.write(lambda db: rewards.add(db, session_id, reward, owner))
        return reward


class TraceRoutes:
    """Routes for traces and trajectories."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._storage = gateway.storage

    async def get(self, request: ControlRequest) -> Trace:
        trace_id, owner = request.params["trace_id"], owner_seen(request)
        found = await self._storage.read(lambda db: store.get(db, trace_id, owner))
        if found is None:
            raise NotFound("there is no such trace")
        return found

    async def of_session(self, request: ControlRequest) -> Response:
        paging = request.query(Paging)
        filter_ = store.TraceFilter(
            session_ids=(request.params["session_id"],),
            since=paging.since,
            owner=owner_seen(request),
        )
        return await array(self._gateway, TraceList(filter_), paging, request.path)

    async def query(self, request: ControlRequest) -> Response:
        query = await request.json(TraceQuery)
        filter_ = store.TraceFilter(
            session_ids=None if query.session_ids is None else tuple(query.session_ids),
            since=query.since,
            until=query.until,
            model=query.model,
            verdict=query.verdict,
            owner=owner_seen(request),
        )
        return await array(self._gateway, TraceList(filter_), query)

    async def trajectories(self, request: ControlRequest) -> Response:
        session_id, owner = request.params["session_id"], owner_seen(request)
        data = await self._storage.read(lambda db: _trajectories(db, session_id, owner))
        return Response(data, media_type="application/json")


class TraceList:
    """The traces that match a filter, oldest first. A paging.Listing."""

    def __init__(self, filter_: store.TraceFilter) -> None:
        self._filter = filter_

    def rows(self, db: sqlite3.Connection, after: str | None) -> Iterator[tuple[str, bytes]]:
        with _known_cursor():
            for trace in store.select(db, self._filter, after=after):
                yield trace.trace_id, msgspec.json.encode(trace)

    def last(self, db: sqlite3.Connection, after: str | None, limit: int) -> str | None:
        with _known_cursor():
            return store.last(db, self._filter, after=after, limit=limit)


@contextlib.contextmanager
def _known_cursor() -> Iterator[None]:
    try:
        yield
    except LookupError:
        message = "the trace of this cursor is not there, or not any more; begin without one"
        raise BadRequest(message, param="cursor") from None


class AdminRoutes:
    """Routes for the weight version, and for flushing traces that are not yet committed."""

    def __init__(self, gateway: Gateway, capture: Capturing) -> None:
        self._storage = gateway.storage
        self._siblings = gateway.siblings
        self._capture = capture

    async def weight_version(self, _: ControlRequest) -> dict[str, int | None]:
        return {"weight_version": self._capture.weight_version}

    async def set_weight_version(self, request: ControlRequest) -> dict[str, int | None]:
        version = (await request.json(WeightVersion)).weight_version
        # Set in memory before storing: calls that begin after the response must have the version.
        self._capture.weight_version = version
        await self._storage.write(lambda db: sessions.put_setting(db, "weight_version", version))
        await self._siblings.ask("weight version")
        return {"weight_version": version}

    async def flush(self, _: ControlRequest) -> dict[str, str]:
        await self._storage.flush()
        return {"status": "flushed"}


def _trajectories(db: sqlite3.Connection, session_id: str, owner: str | None) -> bytes:
    if not sessions.exists(db, session_id, owner):
        raise NotFound("there is no such session")
    wanted = store.TraceFilter(session_ids=(session_id,), owner=owner)
    traces = list(store.select(db, wanted))
    found = trajectories(session_id, traces, rewards.of_session(db, session_id))
    return msgspec.json.encode(found)


def _checked(session_id: str) -> str:
    if len(session_id) > LONGEST_ID or not session_id.isprintable():
        raise BadRequest(
            f"a session id has at most {LONGEST_ID} characters, all printable",
            param="session_id",
            code="invalid_session_id",
        )
    return session_id


def _url(session_id: str) -> str:
    """Return the path for a session's calls; slashes are quoted if they could end the id early."""
    safe = "" if "/v1" in session_id or session_id.startswith("/") else "/:"
    return f"/sessions/{quote(session_id, safe=safe)}/v1"
