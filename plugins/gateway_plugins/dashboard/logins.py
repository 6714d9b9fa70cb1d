"""The logins of people, in the database that all processes share.

A login has two halves of a key: random bytes as long as the key, which only the browser's cookie
has, and the XOR of both, which only the database has. Neither half tells anything of the key. So
the plugin that authenticates is asked with the key itself on each request, whichever plugin that
is; a login ends once its row is deleted; and who can read the database cannot log in.
"""

import base64
import binascii
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from hashlib import sha256

from gateway import (
    BadRequest,
    CallError,
    Database,
    Migration,
    Migrations,
    Storage,
    StorageError,
    Value,
)

log = logging.getLogger("gateway.dashboard")

MIGRATIONS = Migrations(
    "dashboard",
    (
        Migration(
            "create_secret",
            "CREATE TABLE dashboard_secret (place INTEGER PRIMARY KEY, secret BLOB NOT NULL)",
        ),
        Migration(
            "create_logins",
            "CREATE TABLE dashboard_logins (id BLOB PRIMARY KEY, who TEXT NOT NULL, "
            "half BLOB NOT NULL, until REAL NOT NULL) WITHOUT ROWID;"
            "CREATE INDEX dashboard_logins_by_who ON dashboard_logins (who, until)",
        ),
    ),
)
"""`dashboard_secret` has what the forms of an open page carry. `dashboard_logins` has for each
login the SHA-256 of its cookie, the id of its principal, its half of the key, and its end in Unix
seconds."""

MAX_COOKIE = 4096
"""Characters of a cookie: browsers keep no more."""

MAX_LOGINS = 10_000
"""Logins at a time; the one that ends first is ended for one more."""

MAX_OF_ONE = 20
"""Logins of one principal at a time."""

_ID = 32
"""Bytes of a cookie before its half of the key."""

MAX_KEY = MAX_COOKIE // 4 * 3 - _ID
"""Bytes of a key for which a cookie has room, in base64."""

_EXPIRED = "DELETE FROM dashboard_logins WHERE until <= :now"

_SURPLUS = """
DELETE FROM dashboard_logins WHERE id IN (
    SELECT id FROM dashboard_logins WHERE who = :who OR :who IS NULL
    ORDER BY until DESC LIMIT :many OFFSET :most
)
"""


class LoginsUnavailable(CallError):
    """The logins can be neither read nor written now."""

    status = 503
    code = "logins_unavailable"
    type = "server_error"


class Logins:
    """The logins of one gateway. All but `form_token` raise LoginsUnavailable."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def begin(self, who: str, token: str, seconds: float) -> str:
        """Return the cookie of a new login with the key `token` of the principal `who`.

        Raises BadRequest if a cookie has no room for its half of the key.
        """
        key = token.encode("utf-8", "surrogateescape")
        if len(key) > MAX_KEY:
            raise BadRequest("the key is too long for a login; use it in a header")
        cookie = secrets.token_bytes(_ID + len(key))
        half, until = _xor(cookie[_ID:], key), time.time() + seconds

        def write(db: Database) -> None:
            db.execute(_EXPIRED, {"now": time.time()})
            into = "INSERT INTO dashboard_logins (id, who, half, until)"
            db.insert(into, [(sha256(cookie).digest(), who, half, until)])
            for one, most in ((who, MAX_OF_ONE), (None, MAX_LOGINS)):
                db.execute(_SURPLUS, {"who": one, "most": most, "many": 1 << 40})

        try:
            await self._storage.write(write)
        except StorageError as error:
            raise _unavailable(error) from error
        return base64.urlsafe_b64encode(cookie).decode()

    async def find(self, cookie: str) -> str | None:
        """Return the key of a cookie's login; None if there is none, or if it has ended."""
        found = _bytes(cookie)
        if len(found) <= _ID:
            return None
        query = "SELECT half FROM dashboard_logins WHERE id = :id AND until > :now"
        wanted: Mapping[str, Value] = {"id": sha256(found).digest(), "now": time.time()}
        try:
            rows = await self._storage.read(lambda db: list(db.select(query, wanted)))
        except StorageError as error:
            raise _unavailable(error) from error
        halves = (_xor(found[_ID:], half) for (half,) in rows)
        return next((key.decode("utf-8", "surrogateescape") for key in halves), None)

    async def end(self, cookie: str) -> None:
        """End the login of a cookie, if there is one, in all processes."""
        wanted = {"id": sha256(_bytes(cookie)).digest()}
        statement = "DELETE FROM dashboard_logins WHERE id = :id"
        try:
            await self._storage.write(lambda db: db.execute(statement, wanted))
        except StorageError as error:
            raise _unavailable(error) from error


def form_token(secret: bytes) -> str:
    """Return what actions of a page carry against forgery: of a cookie, or of an open page."""
    return hmac.digest(secret, b"form", "sha256").hex()


async def secret_of(storage: Storage) -> bytes:
    """Return the secret of open pages, which is in the database; a new one if there is none.

    Without a database it holds until this process ends.
    """
    try:
        return await storage.write(_secret)
    except StorageError as error:
        log.warning("open pages have to be loaded again after a restart: %s", error)
        return secrets.token_bytes(32)


def _secret(db: Database) -> bytes:
    into = "INSERT INTO dashboard_secret (place, secret)"
    db.insert(into, [(0, secrets.token_bytes(32))], "ON CONFLICT (place) DO NOTHING")
    [(secret,)] = db.select("SELECT secret FROM dashboard_secret WHERE place = 0")
    return bytes(secret)


def _bytes(cookie: str) -> bytes:
    """Return what a cookie holds, b"" if it is none of a login."""
    try:
        return base64.urlsafe_b64decode(cookie[:MAX_COOKIE])
    except (binascii.Error, ValueError):
        return b""


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _unavailable(error: StorageError) -> LoginsUnavailable:
    log.warning("logins: %s", error)
    return LoginsUnavailable("logins cannot be read or written now; /health says why")
