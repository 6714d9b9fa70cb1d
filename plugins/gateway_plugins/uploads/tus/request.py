"""One request of the protocol, and who makes it."""

import re
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from gateway import BadRequest, Call, Forbidden, Headers, Host, Principal, get_header, path_of

MAX_WAIT = 60.0
"""Seconds that GET waits at most for the end of an upload."""

_SECONDS = re.compile(r"[0-9]{1,6}")

SCOPES = frozenset(("upload", "admin"))
"""Either opens the routes."""

ADMIN = "admin"
"""Scope that sees the uploads of all keys, and may replace any model."""


class Request:
    """A request; `id` is of the upload in its path. `principal` is None if nobody authenticates."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self.headers: Headers = scope["headers"]
        self.path = path_of(scope)
        self.id: str = scope["path_params"].get("id", "")
        self.sent_as: str = scope["method"]
        self.method = (self.header("x-http-method-override") or self.sent_as).strip().upper()
        self.principal: Principal | None = None
        self._scope = scope

    def header(self, name: str) -> str | None:
        """Return the first value of a header. `name` is in lower case."""
        value = get_header(self.headers, name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def has_body(self) -> bool:
        """Whether the caller sends, or may send, a body."""
        length = self.header("content-length")
        return self.header("transfer-encoding") is not None or length not in (None, "0")

    @property
    def seconds_to_wait(self) -> float:
        """The parameter `wait`, 0 without one. Raises BadRequest."""
        query = parse_qsl(self._scope.get("query_string", b"").decode("latin-1"))
        given = dict(query).get("wait", "0")
        if not _SECONDS.fullmatch(given):
            raise BadRequest("`wait` is to be a whole number of seconds", param="wait")
        return min(float(given), MAX_WAIT)

    @property
    def owner(self) -> str:
        """The owner of what this request creates; "" if nobody authenticates."""
        return "" if self.principal is None else self.principal.id

    @property
    def is_admin(self) -> bool:
        """Whether the caller may do everything: so may all, if nobody authenticates."""
        return self.principal is None or ADMIN in self.principal.scopes

    @property
    def visible(self) -> str | None:
        """The only owner whose uploads the caller may see; None: it may see all."""
        return None if self.is_admin else self.owner

    async def identify(self, host: Host) -> None:
        """Set the principal. Raises Unauthorized, or Forbidden if it lacks the scope."""
        client = self._scope.get("client")
        call = Call(
            _NoCaller(),
            method=self.method,
            path=self.path,
            query=self._scope.get("query_string", b""),
            headers=self.headers,
            client=client[0] if client else None,
        )
        await host.identify(call)
        self.principal = call.principal
        if call.principal is not None and call.principal.scopes.isdisjoint(SCOPES):
            raise Forbidden("this needs a key with the scope `upload`", code="missing_scope")


class _NoCaller:
    """The caller of a Call that is only identified."""

    def __init__(self) -> None:
        self.drained: Callable[[], None] = self.cut

    def start(self, status: int, headers: Headers) -> None: ...
    def write(self, data: bytes) -> bool:
        return True

    def cut(self) -> None: ...
    async def end(self, data: bytes) -> None: ...
