"""Routes of sessions and their rewards."""

import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Protocol
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from gateway import (
    BadRequest,
    ControlRequest,
    Database,
    Host,
    NotFound,
    Reward,
    SessionInfo,
    Verdict,
    read_session_id,
)
from gateway_plugins.trace_capture.http.fields import (
    SessionIdList,
    ShortText,
    Timestamp,
    session_id_of,
)
from gateway_plugins.trace_capture.http.paging import Paging, array
from gateway_plugins.trace_capture.sessions import rewards, sessions
from gateway_plugins.trace_capture.sessions.listing import Order, SessionFilter, SessionList
from gateway_plugins.trace_capture.sessions.owners import creator, visible_owner

MAX_ID_LENGTH = 4096
"""Maximum characters of a session id that a caller chooses."""

DELETE_BATCH = 20
"""Sessions deleted per transaction; few, because the traces of calls wait for it."""


class SessionKeeper(Protocol):
    """The part of the plugin object that knows sessions beyond the database."""

    def delete_sessions(
        self, db: Database, session_ids: Sequence[str], owner: str | None
    ) -> int: ...
    def reclaim_soon(self) -> None: ...
    def forget_options(self, session_id: str) -> None: ...
    def lost_count(self, session_id: str, caller: str | None) -> int: ...


class SessionQuery(Paging):
    """What a list of sessions is limited to, see SessionFilter, and its order by creation."""

    text: ShortText | None = None
    parent: str | None = None
    calls_since: Timestamp | None = None
    calls_until: Timestamp | None = None
    model: ShortText | None = None
    worker: ShortText | None = None
    weight_version: ShortText | None = None
    verdict: Verdict | None = None
    order: Order = "oldest"

    def filter(self, owner: str | None) -> SessionFilter:
        """Return the filter, of this owner's sessions; of anybody's if it is None."""
        names = set(SessionFilter.__struct_fields__) - {"owner"}
        return SessionFilter(owner=owner, **{name: getattr(self, name) for name in names})


class NewSession(msgspec.Struct, forbid_unknown_fields=True):
    session_id: str | None = None
    metadata: dict[str, Any] | None = None
    sampling_params: dict[str, Any] | None = None
    tito: Literal["off", "prefer", "require"] | None = None


class SessionIds(msgspec.Struct, forbid_unknown_fields=True):
    session_ids: SessionIdList


class NewReward(msgspec.Struct, forbid_unknown_fields=True):
    value: float
    source: str = ""
    trace_id: str | None = None


class SessionRoutes:
    """Handlers for sessions and their rewards."""

    def __init__(self, gateway: Host, keeper: SessionKeeper) -> None:
        self._gateway = gateway
        self._storage = gateway.storage
        self._keeper = keeper

    async def create(self, request: ControlRequest) -> dict[str, str]:
        given = await request.json(NewSession)
        session_id = given.session_id or str(uuid.uuid4())
        self._check_id(session_id)

        def put(db: Database) -> None:
            sessions.put(
                db,
                session_id,
                now=time.time(),
                metadata=given.metadata,
                sampling_params=given.sampling_params,
                creator=creator(request),
                owner=visible_owner(request),
            )
            if given.tito is not None:
                sessions.put_tito(db, session_id, given.tito)
            if given.metadata is not None:
                for hook in self._gateway.hooks("session_put"):
                    hook.run(db, session_id, given.metadata)

        await self._storage.write(put)
        self._keeper.forget_options(session_id)
        return {"session_id": session_id, "url": _url(session_id)}

    def _check_id(self, session_id: str) -> None:
        """Raise BadRequest if no call can have this id, or if it is too long to be stored."""
        if len(session_id) > MAX_ID_LENGTH or not session_id.isprintable():
            raise BadRequest(
                f"a session id has at most {MAX_ID_LENGTH} characters, all printable",
                param="session_id",
                code="invalid_session_id",
            )
        for hook in self._gateway.hooks("check_session_id"):
            hook.run(session_id)

    async def list_all(self, request: ControlRequest) -> Response:
        query = request.query(SessionQuery)
        listing = SessionList(query.filter(visible_owner(request)), query.order)
        return await array(self._gateway, listing, query, request.path)

    async def get(self, request: ControlRequest) -> SessionInfo:
        session_id, owner = session_id_of(request), visible_owner(request)

        def find(db: Database) -> tuple[SessionInfo | None, bool]:
            found = sessions.get(db, session_id, owner)
            if found is not None:
                found.tito = sessions.get_tito(db, session_id)
                found.parent_session_id = sessions.get_parent(db, session_id)
                sessions.add_tokens(db, found)
            return found, sessions.exists(db, session_id)

        found, taken = await self._storage.read(find)
        lost = self._keeper.lost_count(session_id, owner if found is None else None)
        if lost and not taken:
            found = SessionInfo(session_id=session_id)
        if found is None:
            raise NotFound("there is no such session")
        found.lost += lost
        return found

    async def delete(self, request: ControlRequest) -> dict[str, int]:
        session_ids = [session_id_of(request)]
        return {"deleted": await self._delete(session_ids, visible_owner(request))}

    async def delete_many(self, request: ControlRequest) -> dict[str, int]:
        session_ids = (await request.json(SessionIds)).session_ids
        return {"deleted": await self._delete(session_ids, visible_owner(request))}

    async def _delete(self, session_ids: list[str], owner: str | None) -> int:
        deleted = 0
        for start in range(0, len(session_ids), DELETE_BATCH):
            some = session_ids[start : start + DELETE_BATCH]
            deleted += await self._storage.write(
                partial(self._keeper.delete_sessions, session_ids=some, owner=owner)
            )
            for session_id in some:
                self._keeper.forget_options(session_id)
                for hook in self._gateway.hooks("session_ended"):
                    hook.run(session_id, owner)
        self._keeper.reclaim_soon()
        return deleted

    async def rewards(self, request: ControlRequest) -> Response:
        paging = request.query(Paging)
        session_id = (await self.get(request)).session_id
        listing = rewards.RewardList(session_id, paging.since, visible_owner(request))
        return await array(self._gateway, listing, paging, request.path)

    async def add_reward(self, request: ControlRequest) -> Reward:
        given = await request.json(NewReward)
        session_id, owner = session_id_of(request), visible_owner(request)
        reward = Reward(
            value=given.value,
            source=given.source,
            trace_id=given.trace_id,
            timestamp=time.time(),
        )
        await self._storage.write(lambda db: rewards.add(db, session_id, reward, owner))
        return reward


def _url(session_id: str) -> str:
    """Return the path for a session's calls; only slashes that cannot end the id stay as they are.

    Clients resolve a segment of dots, even within an id.
    """
    bare = quote(session_id, safe="/:")
    plain = "/v1" not in session_id and "/." not in f"/{session_id}" and _reads_as(bare, session_id)
    return f"/sessions/{bare if plain else quote(session_id, safe=':')}/v1"


def _reads_as(encoded: str, session_id: str) -> bool:
    try:
        return read_session_id(encoded) == session_id
    except NotFound:
        return False
