"""Routes behind a scope: who calls is identified as the caller of a call is."""

from collections.abc import Callable
from typing import Any, Protocol

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from gateway.calls.call import Call
from gateway.calls.records import Principal, Wanted
from gateway.config import Config
from gateway.errors import (
    Forbidden,
)
from gateway.headers import get_header, path_of
from gateway.pipeline.authorization import require
from gateway.plugins.chains import Chains

CARRIED = "gateway.carried"
"""Stands in place of the scope for a route that leads to calls, and marks their requests."""


class Current(Protocol):
    """The hooks and the configuration in force now; a reload replaces them."""

    @property
    def chains(self) -> Chains: ...
    @property
    def config(self) -> Config: ...


class ScopedRoute(BaseRoute):
    """A Starlette `route` that requires a `scope`; None: it is open to anybody, even without a key.

    With CARRIED the route leads to calls, whose callers are authenticated as part of the call.
    """

    def __init__(self, route: BaseRoute, scope: Wanted | None, current: Current) -> None:
        self.path: str = getattr(route, "path", repr(route))
        self.scope = scope
        self.route = route
        self._current = current

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = self.route.matches(scope)
        return match, {**found, CARRIED: True} if self.scope == CARRIED else found

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        return self.route.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.scope != CARRIED:
            reject_other_sites(scope)
            await identify(scope, self.scope, self._current)
        await self.route.handle(scope, receive, send)


async def identify(scope: Scope, wanted: Wanted | None, current: Current) -> Principal | None:
    """Return the caller's principal; None if no plugin authenticates, or if `wanted` is None.

    Raises Unauthorized as a call does, and Forbidden if the principal lacks the scope `wanted`.
    """
    if wanted is None or not current.chains.authenticate:
        return None
    client = scope.get("client")
    call = Call(
        _NoCaller(),
        method=scope["method"],
        path=path_of(scope),
        query=scope.get("query_string", b""),
        headers=scope["headers"],
        client=client[0] if client else None,
    )
    if (rest := current.chains.identify(call)) is not None:
        await rest
    require(call.principal, wanted)
    return call.principal


def reject_other_sites(scope: Scope) -> None:
    """Raise Forbidden if a web page made the browser send the request to a local gateway."""
    if get_header(scope["headers"], b"sec-fetch-site") == b"cross-site":
        raise Forbidden("a page of another site may not ask for this")


class _NoCaller:
    """The caller of a Call that is only authenticated and gets no response."""

    def __init__(self) -> None:
        self.drained: Callable[[], None] = self.cut

    def start(self, status: int, headers: object) -> None: ...
    def write(self, data: bytes) -> bool:
        return True

    def cut(self) -> None: ...
    async def end(self, data: bytes) -> None: ...
