"""Who looks at the page: by the key of the request itself, or by that in the cookie of a login."""

import hmac
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Scope

from gateway import (
    BadRequest,
    Call,
    Forbidden,
    Headers,
    Host,
    Principal,
    Unauthorized,
    get_header,
    path_of,
)
from gateway_plugins.dashboard.logins import Logins, form_token

COOKIE = "gateway_login"

FORM_TOKEN = b"x-csrf-token"
"""Header of an action: the page has its value, a page of another site does not."""

KEYS = frozenset((b"authorization", b"x-api-key", b"api-key"))
"""Headers that hold a key."""

IN_QUERY = frozenset(("key", "api_key", "apikey", "token", "access_token"))
"""Names under which clients have put keys into addresses."""

READS = frozenset(("GET", "HEAD"))


class Viewer(msgspec.Struct, frozen=True):
    """Somebody who looks; `principal` is None if no plugin authenticates.

    `headers` are those of the request with the viewer's key. `form_token` is what actions of the
    page carry. `by_key`: the request has the key itself, as no browser adds it.
    """

    principal: Principal | None
    headers: Headers
    form_token: str
    by_key: bool = False

    def may(self, scope: str) -> bool:
        """Whether what requires this scope is for this viewer."""
        return self.principal is None or scope in self.principal.scopes


class Viewers:
    """Identifies viewers. `seconds` returns how long a login is good.

    `secret` is that of the forms of a page that is open to all.
    """

    def __init__(self, gateway: Host, seconds: Callable[[], float]) -> None:
        self._gateway = gateway
        self._logins = Logins(gateway.storage)
        self._seconds = seconds
        self.secret = b""

    async def login(self, scope: Scope, token: str) -> str:
        """Return the cookie of a new login with this key, in place of the one before.

        Raises Unauthorized if no plugin knows the key, and what `Logins.begin` does.
        """
        principal = await self._identify(scope, _with_key(scope["headers"], token))
        if principal is None:
            raise BadRequest("there is no login: the page is open, as no plugin authenticates")
        if before := cookie_of(scope["headers"]):
            await self._logins.end(before)
        cookie = await self._logins.begin(principal.id, token, self._seconds())
        return self._set(scope, cookie)

    async def logout(self, scope: Scope) -> str:
        """End a login everywhere; return what has the browser forget its cookie."""
        await self._logins.end(cookie_of(scope["headers"]))
        return self._set(scope, "")

    async def of(self, scope: Scope) -> Viewer:
        """Return who sent a request. Raises Unauthorized, and what `refuse_key_in_query` does."""
        refuse_key_in_query(scope)
        headers: Headers = scope["headers"]
        if any(get_header(headers, name) is not None for name in KEYS):
            return Viewer(await self._identify(scope, headers), headers, "", by_key=True)
        if not self._gateway.authenticates:
            return Viewer(None, headers, form_token(self.secret))
        cookie = cookie_of(headers)
        token = await self._logins.find(cookie)
        if token is None:
            raise Unauthorized("log in at /dashboard, or send a key in the header Authorization")
        headers = _with_key(headers, token)
        try:
            principal = await self._identify(scope, headers)
        except Unauthorized:  # the key was revoked, or has expired
            await self._logins.end(cookie)
            raise
        return Viewer(principal, headers, form_token(cookie.encode()))

    def check_form(self, scope: Scope, viewer: Viewer, given: bytes | None = None) -> None:
        """Raise Forbidden if an action comes from another page than this gateway's.

        `given` is the token of a form; None: it is in a header.
        """
        if viewer.by_key or scope["method"] in READS:
            return
        sent = get_header(scope["headers"], FORM_TOKEN) if given is None else given
        if not hmac.compare_digest(sent or b"", viewer.form_token.encode()):
            raise Forbidden("this action has no valid token of the page: load the page again")

    async def _identify(self, scope: Scope, headers: Headers) -> Principal | None:
        client = scope.get("client")
        call = Call(
            _Nobody(),
            method=scope["method"],
            path=path_of(scope),
            headers=headers,
            client=client[0] if client else None,
        )
        await self._gateway.identify(call)
        return call.principal

    def _set(self, scope: Scope, value: str) -> str:
        seconds = int(self._seconds()) if value else 0
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        return (
            f"{COOKIE}={value}; Max-Age={seconds}; Path=/dashboard; "
            f"HttpOnly; SameSite=Strict{secure}"
        )


def refuse_key_in_query(scope: Scope) -> None:
    """Raise BadRequest if the address holds a key: addresses are kept in logs and histories."""
    query = scope.get("query_string", b"").decode("latin-1")
    named = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    if found := sorted(named & IN_QUERY):
        raise BadRequest(
            f"a key has no place in an address (`{found[0]}`): log in at /dashboard, or send it "
            "in the header Authorization",
            param=found[0],
        )


def cookie_of(headers: Headers) -> str:
    """Return the login's cookie of a request, "" if there is none."""
    for line in (value for name, value in headers if name == b"cookie"):
        try:
            found = SimpleCookie(line.decode("latin-1")).get(COOKIE)
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""


def _with_key(headers: Headers, token: str) -> Headers:
    kept = [(name, value) for name, value in headers if name not in KEYS and name != b"cookie"]
    return [*kept, (b"authorization", b"Bearer " + token.encode("utf-8", "surrogateescape"))]


class _Nobody:
    """The caller of a call that is only identified, and gets no response."""

    def __init__(self) -> None:
        self.drained = self.cut

    def start(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes) -> bool:
        return True

    def cut(self) -> None: ...

    async def end(self, data: bytes) -> None: ...
