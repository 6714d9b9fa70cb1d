"""API tokens: how a request carries one, how one is made, and the digest that is stored."""

import hashlib
import secrets

from gateway import Headers

_BEARER = b"bearer "


def token_of(headers: Headers) -> bytes | None:
    """Return the token of `Authorization: Bearer`, else of `x-api-key`, else of `api-key`.

    None if there is none. Empty tokens and other schemes are ignored.
    """
    for name, value in headers:
        if name == b"authorization" and (value[:7] == b"Bearer " or value[:7].lower() == _BEARER):
            token = value[7:].strip()
            if token:
                return token
    return _plain(headers, b"x-api-key") or _plain(headers, b"api-key")


def _plain(headers: Headers, wanted: bytes) -> bytes | None:
    for name, value in headers:
        if name == wanted and (token := value.strip()):
            return token
    return None


def digest_of(token: bytes) -> bytes:
    """32 bytes of SHA-256. Tokens are random, so a slow hash would protect nothing."""
    return hashlib.sha256(token).digest()


def digest_of_name(name: str) -> bytes:
    """32 bytes for a name in a certificate, which are those of no token."""
    return hashlib.blake2b(name.encode(), digest_size=32, person=b"certificate").digest()


def new_token() -> str:
    """Return `gw-` and 43 characters for 256 random bits, all safe in URLs and shells."""
    return f"gw-{secrets.token_urlsafe(32)}"
