"""Routes for operators: callers are authenticated as those of calls are, and input is typed.

A plugin adds such routes with `gateway.control(path, scope=..., GET=...)`, see Gateway. A plugin's
other Starlette routes must be wrapped: by `gateway.guarded`, which puts them behind a scope, or by
`gateway.carried` if they lead to calls.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Message, Receive, Scope, Send

from gateway.calls.control_request import ControlRequest, Handler
from gateway.calls.records import Wanted
from gateway.control.scoped import Current, identify, reject_other_sites
from gateway.errors import (
    CallerGone,
    ConstraintViolated,
    InvalidStatement,
    StorageError,
    StorageFailed,
)
from gateway.headers import path_of
from gateway.wire.naming.session_path import read_session_id

log = logging.getLogger("gateway")


# A name may contain slashes, but not `/v1/` and more: such a path belongs to a call.
_NAME = "(?P<{}>(?:(?!/v1/.).)+)"


class ControlRoute(BaseRoute):
    """One path, such as `/sessions/{id}/traces`, with a handler for each method.

    Matches the path as it was sent, percent-encoding kept. A name may contain slashes; if the name
    would be read as more than a name, the client can percent-encode it. For a name `session_id` the
    rule of gateway.wire.naming.session_path holds. A path under a session's
    /v1/ is a call and never matches.
    """

    def __init__(
        self, path: str, scope: Wanted | None, handlers: Mapping[str, Handler], current: Current
    ) -> None:
        self.path = path
        self.scope = scope
        self.methods = frozenset(handlers)
        self._handlers = dict(handlers)
        self._current = current
        literal_or_name = re.split(r"\{(\w+)\}", path)
        self._pattern = re.compile(
            "".join(
                _NAME.format(part) if place % 2 else re.escape(part)
                for place, part in enumerate(literal_or_name)
            )
        )

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = self._pattern.fullmatch(path_of(scope)) if scope["type"] == "http" else None
        if found is None:
            return Match.NONE, {}
        encoded = found.groupdict()
        params = {name: unquote(value) for name, value in encoded.items()}
        return Match.FULL, {"path_params": params, "encoded_path_params": encoded}

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Raises errors, which gateway.app turns into responses."""
        begun = False

        async def noting_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            answer = await self._answer(scope, receive)
            await answer(scope, receive, noting_send)
        except CallerGone:
            pass
        except Exception:
            if not begun:
                raise
            # The server closes the connection of an unfinished response: it cannot look complete.
            log.exception("the answer to %s broke off", scope["path"])

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        reject_other_sites(scope)
        principal = await identify(scope, self.scope, self._current)
        session = scope["encoded_path_params"].get("session_id")
        if session is not None:
            read_session_id(session)  # raises NotFound, whatever the method
        handler = self._handlers.get(method)
        if handler is None:
            raise HTTPException(405, headers={"allow": ", ".join(sorted(self.methods))})
        request = ControlRequest(
            scope,
            receive,
            params=scope["path_params"],
            principal=principal,
            settings=self._current.config,
        )
        try:
            answer = await handler(request)
        except (ConstraintViolated, InvalidStatement):
            raise
        except StorageError as error:
            log.error("%s %s: storage: %s", scope["method"], self.path, error)
            raise StorageFailed("the database cannot be used now; /health says why") from None
        if isinstance(answer, Response):
            return answer
        return Response(msgspec.json.encode(answer), media_type="application/json")
