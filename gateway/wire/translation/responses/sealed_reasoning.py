"""Reasoning that a caller takes away and brings back as `encrypted_content`.

Agents that store nothing at the server send back what stands there and drop the text. The text is
the caller's own and is not encrypted: a mark tells it apart from another server's.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

_MARK = "gateway-reasoning-1."


def seal(text: str) -> str:
    return _MARK + urlsafe_b64encode(text.encode(errors="replace")).decode()


def unseal(sealed: str) -> str | None:
    """Return the text; None if `sealed` comes from another server, or is damaged."""
    if not sealed.startswith(_MARK):
        return None
    try:
        return urlsafe_b64decode(sealed[len(_MARK) :].encode()).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return None
