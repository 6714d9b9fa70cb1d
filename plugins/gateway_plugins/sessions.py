"""Finds the session of a call: from `/sessions/{id}/v1/...`, else from a header.

A session id may hold slashes and colons (`harbor/hello-world:0`), so `/sessions/` is matched up to
the first `/v1/` that leaves a path to forward.
"""

import re
from urllib.parse import unquote

import msgspec
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from gateway import BadRequest, Call, Host, get_header, hookimpl, path_of

SESSION_PATH = re.compile(r"/sessions/(?P<id>.+?)(?P<path>/v1/.+)")


class Sessions:
    """Sets `call.session_id`."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """`header` names the request header that holds the id; `max_length` is in characters."""

        header: str = "x-session-id"
        max_length: int = 256

    def __init__(self, config: Config) -> None:
        self._header = config.header.lower().encode("latin-1")
        self._max_length = config.max_length

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [gateway.carried(SessionRoute("/sessions/{rest:path}", SessionEdge(gateway)))]

    @hookimpl
    async def admit(self, call: Call) -> None:
        if call.session_id is None:
            value = get_header(call.headers, self._header)
            if not value:
                return
            call.session_id = value.decode("latin-1")
        if len(call.session_id) > self._max_length or not call.session_id.isprintable():
            raise BadRequest(
                f"a session id has at most {self._max_length} characters, all printable",
                code="invalid_session_id",
            )


class SessionRoute(Route):
    """Matches only the calls of sessions: other paths under /sessions may be another plugin's.

    Like a worker's path, a session's path is matched as it was sent, so an encoded slash is no
    separator.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = SESSION_PATH.fullmatch(path_of(scope)) if scope["type"] == "http" else None
        if found is None:
            return Match.NONE, {}
        params = {"session_id": unquote(found["id"]), "path": found["path"]}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": params}


class SessionEdge:
    """Forwards the path after the session, as if the call had come without the session."""

    def __init__(self, gateway: Host) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gateway.carry(scope, receive, send, **scope["path_params"])
