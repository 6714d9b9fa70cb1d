"""The cookie of a login: a key that only this gateway can read, for a time.

The key is kept nowhere but in the browser's cookie, encrypted and signed, so a key that is revoked
is refused at once and a login outlives a restart. The secret is in the database, which all
processes share.
"""

import base64
import binascii
import hmac
import logging
import secrets
import struct
from hashlib import shake_256

from gateway import Database, Migration, Migrations, Storage, StorageError

log = logging.getLogger("gateway.dashboard")

MIGRATIONS = Migrations(
    "dashboard",
    (
        Migration(
            "create_secret",
            "CREATE TABLE dashboard_secret (place INTEGER PRIMARY KEY, secret BLOB NOT NULL)",
        ),
    ),
)

MAX_COOKIE = 4096
"""Characters of a cookie: browsers keep no more."""

NONCE = 16
TAG = 32
_UNTIL = struct.Struct(">d")


class Seal:
    """Encrypts keys into cookies and back. Until `use` it has a secret of its own."""

    def __init__(self) -> None:
        self.use(secrets.token_bytes(32))

    def use(self, secret: bytes) -> None:
        """Use this secret from now on: other cookies are good for nothing any more."""
        self._hiding, self._signing, self._forms = (
            hmac.digest(secret, purpose, "sha256") for purpose in (b"hide", b"sign", b"form")
        )

    def seal(self, token: str, until: float) -> str:
        """Return a cookie that holds the token until then, in Unix seconds."""
        nonce = secrets.token_bytes(NONCE)
        plain = _UNTIL.pack(until) + token.encode()
        return self._signed(nonce + self._hidden(nonce, plain))

    def open(self, cookie: str, now: float) -> str | None:
        """Return the token in a cookie of this gateway; None if it is not one, or too old."""
        try:
            packed = base64.urlsafe_b64decode(cookie[:MAX_COOKIE])
        except (binascii.Error, ValueError):
            return None
        content, tag = packed[:-TAG], packed[-TAG:]
        if not hmac.compare_digest(tag, hmac.digest(self._signing, content, "sha256")):
            return None
        plain = self._hidden(content[:NONCE], content[NONCE:])
        [until] = _UNTIL.unpack_from(plain)
        return plain[_UNTIL.size :].decode() if now < until else None

    def form_token(self, cookie: str) -> str:
        """Return what each action of the page that has this cookie carries, against forgery."""
        return hmac.digest(self._forms, cookie.encode(), "sha256").hex()

    def _signed(self, content: bytes) -> str:
        tag = hmac.digest(self._signing, content, "sha256")
        return base64.urlsafe_b64encode(content + tag).decode()

    def _hidden(self, nonce: bytes, data: bytes) -> bytes:
        """Encrypt, or decrypt: XOR with a stream that nobody knows without the secret."""
        stream = shake_256(self._hiding + nonce).digest(len(data))
        return bytes(a ^ b for a, b in zip(data, stream, strict=True))


async def secret_of(storage: Storage) -> bytes:
    """Return the secret in the database, a new one if there is none.

    Without a database logins hold until this process ends.
    """
    try:
        return await storage.write(_secret)
    except StorageError as error:
        log.warning("logins hold in this process only, until it ends: %s", error)
        return secrets.token_bytes(32)


def _secret(db: Database) -> bytes:
    into = "INSERT INTO dashboard_secret (place, secret)"
    db.insert(into, [(0, secrets.token_bytes(32))], "ON CONFLICT (place) DO NOTHING")
    [(secret,)] = db.select("SELECT secret FROM dashboard_secret WHERE place = 0")
    return bytes(secret)
