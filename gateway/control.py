"""Routes for operators: callers are authenticated as those of calls are, and input is typed.

A plugin adds such routes with `gateway.control(path, scope=..., GET=...)`, see Gateway. A plugin's
other Starlette routes must be wrapped: by `gateway.guarded`, which puts them behind a scope, or by
`gateway.carried` if they lead to calls.
"""

import asyncio
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Message, Receive, Scope, Send

from gateway.body import Body
from gateway.call import Call, Principal
from gateway.chains import Chains
from gateway.config import Config
from gateway.errors import (
    BadRequest,
    BodyTimeout,
    CallerGone,
    ConfigError,
    Forbidden,
    InvalidJSON,
    StorageFailed,
)
from gateway.headers import Headers, get_header, path_of
from gateway.permission import require
from gateway.plugins import Plugins
from gateway.storage import StorageUnavailable

if TYPE_CHECKING:
    from gateway.app import Gateway

log = logging.getLogger("gateway")
T = TypeVar("T")

CARRIED = "carried"
"""Stands in place of the scope for a route that leads to calls."""

# A name may contain slashes, but not `/v1/` and more: such a path belongs to a call.
_NAME = "(?P<{}>(?:(?!/v1/.).)+)"


class ControlRequest:
    """A request to the gateway itself.

    `params` are the named parts of the path, decoded. `principal` is None if no plugin
    authenticates, or if the route is open to anybody.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        *,
        params: Mapping[str, str],
        principal: Principal | None,
        settings: Config,
    ) -> None:
        self.params = params
        self.principal = principal
        self.path = path_of(scope)
        self._query: bytes = scope.get("query_string", b"")
        self._headers: Headers = scope["headers"]
        self._receive = receive
        self._patience = settings.timeouts.idle
        self._body = Body(source=self._next_chunk, limit=settings.limits.max_body_bytes)

    def header(self, name: str) -> str | None:
        """Return the first value of a request header, or None. `name` is case-insensitive."""
        value = get_header(self._headers, name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def query(self, type_: type[T]) -> T:
        """Parse the query string as a Struct. Raises BadRequest, which names the parameter."""
        found = dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))
        try:
            return msgspec.convert(found, type_, strict=False)
        except msgspec.ValidationError as error:
            raise _refusal("query string", error) from None

    async def json(self, type_: type[T]) -> T:
        """Parse the body as a Struct.

        Raises BadRequest, which names the field; InvalidJSON; BodyTooLarge; BodyTimeout.
        """
        data = await self._body.read()
        try:
            return msgspec.json.decode(data, type=type_)
        except msgspec.ValidationError as error:
            raise _refusal("request body", error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidJSON(f"the request body is not valid JSON: {error}") from None

    async def _next_chunk(self) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            raise BodyTimeout(f"nothing more of the body came for {self._patience} s") from None
        if message["type"] == "http.disconnect":
            raise CallerGone("the caller left while it sent its request")
        return message.get("body", b""), message.get("more_body", False)


Handler = Callable[[ControlRequest], Awaitable[Any]]
"""Returns a Starlette Response, or a value to send as JSON with status 200; may raise CallError."""


class Ruling(Protocol):
    """The hooks and the configuration in force now; a reload replaces them."""

    @property
    def chains(self) -> Chains: ...
    @property
    def config(self) -> Config: ...


class ScopedRoute(BaseRoute):
    """A Starlette `route` that requires a `scope`; None: it is open to anybody, even without a key.

    With CARRIED the route leads to calls, whose callers are authenticated as part of the call.
    """

    def __init__(self, route: BaseRoute, scope: str | None, ruling: Ruling) -> None:
        self.path: str = getattr(route, "path", repr(route))
        self.scope = scope
        self._route = route
        self._ruling = ruling

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return self._route.matches(scope)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        return self._route.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.scope != CARRIED:
            _refuse_other_sites(scope)
            await identify(scope, self.scope, self._ruling)
        await self._route.handle(scope, receive, send)


class ControlRoute(BaseRoute):
    """One path, such as `/sessions/{id}/traces`, with a handler for each method.

    Matches the path as it was sent, percent-encoding kept. A name may contain slashes; if the name
    would be read as more than a name, the client can percent-encode it. A path under a session's
    /v1/ is a call and never matches.
    """

    def __init__(
        self, path: str, scope: str | None, handlers: Mapping[str, Handler], ruling: Ruling
    ) -> None:
        self.path = path
        self.scope = scope
        self.methods = frozenset(handlers)
        self._handlers = dict(handlers)
        self._ruling = ruling
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
        params = {name: unquote(value) for name, value in found.groupdict().items()}
        return Match.FULL, {"path_params": params}

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
        _refuse_other_sites(scope)
        principal = await identify(scope, self.scope, self._ruling)
        handler = self._handlers.get(method)
        if handler is None:
            raise HTTPException(405, headers={"allow": ", ".join(sorted(self.methods))})
        request = ControlRequest(
            scope,
            receive,
            params=scope["path_params"],
            principal=principal,
            settings=self._ruling.config,
        )
        try:
            answer = await handler(request)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except (sqlite3.DatabaseError, StorageUnavailable) as error:
            log.error("%s %s: storage: %s", scope["method"], self.path, error)
            raise StorageFailed("the database cannot be used now; /health says why") from None
        if isinstance(answer, Response):
            return answer
        return Response(msgspec.json.encode(answer), media_type="application/json")


async def identify(scope: Scope, wanted: str | None, ruling: Ruling) -> Principal | None:
    """Return the caller's principal; None if no plugin authenticates, or if `wanted` is None.

    Raises Unauthorized as a call does, and Forbidden if the principal lacks the scope `wanted`.
    """
    if wanted is None or not ruling.chains.authenticate:
        return None
    client = scope.get("client")
    call = Call(
        _Nobody(),
        method=scope["method"],
        path=path_of(scope),
        query=scope.get("query_string", b""),
        headers=scope["headers"],
        client=client[0] if client else None,
    )
    await ruling.chains.identify(call)
    require(call.principal, wanted)
    return call.principal


def added_routes(
    plugins: Plugins, gateway: "Gateway", only: Collection[str]
) -> dict[str, Sequence[BaseRoute]]:
    """Return the routes of the plugins in `only`, by plugin. Raises ConfigError."""
    found: dict[str, Sequence[BaseRoute]] = {}
    for name, routes in plugins.run("routes", gateway, only=only).items():
        with plugins.blamed(name):
            found[name] = tuple(routes)
            _check_scopes(found[name])
    return found


def _check_scopes(routes: Sequence[BaseRoute]) -> None:
    """Raise ConfigError if a route declares no scope."""
    for route in routes:
        if not isinstance(route, ControlRoute | ScopedRoute):
            raise ConfigError(
                f"its route {getattr(route, 'path', route)!r} declares no scope: make it with "
                "gateway.control(..., scope=...), or wrap it in gateway.guarded(route, scope=...), "
                "or in gateway.carried(route) where it leads to calls"
            )


def _refuse_other_sites(scope: Scope) -> None:
    """Raise Forbidden if a web page made the browser send the request to a local gateway."""
    if get_header(scope["headers"], b"sec-fetch-site") == b"cross-site":
        raise Forbidden("a page of another site may not ask for this")


class _Nobody:
    """The caller of a Call that is only authenticated and gets no response."""

    def __init__(self) -> None:
        self.drained: Callable[[], None] = self.cut

    def start(self, status: int, headers: object) -> None: ...
    def write(self, data: bytes) -> bool:
        return True

    def cut(self) -> None: ...
    async def end(self, data: bytes) -> None: ...


_FIELD = re.compile(r"at `\$\.?(?P<at>[^`]+)`|field `(?P<name>[^`]+)`")


def _refusal(where: str, error: msgspec.ValidationError) -> BadRequest:
    found = _FIELD.search(str(error))
    field = found and (found["at"] or found["name"])
    return BadRequest(f"the {where} is not what is expected here: {error}", param=field or None)
