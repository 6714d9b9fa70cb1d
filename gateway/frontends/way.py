"""A route whose paths lead to calls, which a plugin finds in them."""

from collections.abc import Awaitable, Callable

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from gateway.headers import path_of

Carried = tuple[str, str | None]
"""The path at the worker, and the session's id if the path names one."""

Find = Callable[[str], Carried | None]
"""What a path leads to; None: another route may take it. It may raise a CallError."""


class CarriedRoute(BaseRoute):
    """Matches the paths under `prefix` in which `find` finds a call; `serve` carries it."""

    def __init__(self, prefix: str, find: Find, serve: Callable[..., Awaitable[None]]) -> None:
        self.path = f"{prefix}{{rest:path}}"
        self.prefix = prefix
        self.find = find
        self._serve = serve

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        path = path_of(scope)
        try:
            found = path.startswith(self.prefix) and self.find(path) is not None
        except Exception:  # noqa: BLE001
            found = True  # `handle` raises it again
        return (Match.FULL if found else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one request. Raises the errors of `find`."""
        found = self.find(path_of(scope))
        assert found is not None  # it has matched
        path, session_id = found
        await self._serve(scope, receive, send, path=path, session_id=session_id)
