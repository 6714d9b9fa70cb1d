"""What a request says of itself: whether it is a retry, and of what."""

from collections.abc import Collection
from typing import NamedTuple

from gateway import BadRequest, Call

MAX_KEY = 255
"""Characters of an Idempotency-Key."""

KEY = b"idempotency-key"

Place = tuple[str | None, str | None, str, bytes, int]


class Request(NamedTuple):
    """What a retry has in common with the call that it repeats.

    Principal, session, path as the caller sent it, query, body, and the Idempotency-Key, if any.
    """

    principal: str | None
    session: str | None
    path: str
    query: bytes
    body: bytes
    key: str | None

    @property
    def place(self) -> Place:
        """What is quickly compared: all but the key, and the length of the body."""
        return self.principal, self.session, self.path, self.query, len(self.body)

    def repeats(self, other: "Request") -> bool:
        return self.body == other.body and self.place == other.place


class Said(NamedTuple):
    """What a client says: its Idempotency-Key, and the number of retries, None if uncounted."""

    key: str | None
    retries: int | None


def said_by(call: Call, counting: Collection[bytes]) -> Said:
    """Read the headers of a call; `counting` are the names of headers that count retries.

    Raises BadRequest if the Idempotency-Key is too long or empty.
    """
    key, retries = None, None
    for name, value in call.headers:
        if name == KEY:
            key = _key(value)
        elif name in counting and value.isdigit():
            retries = max(retries or 0, int(value[:9]))
    return Said(key, retries)


def request_of(call: Call, key: str | None) -> Request:
    """Return what identifies a call whose body was read."""
    principal, body = None if call.principal is None else call.principal.id, call.body.data or b""
    return Request(principal, call.session_id, call.asked_path, call.query, body, key)


def _key(value: bytes) -> str:
    """Return the key, which is a string in quotes by the draft; most clients leave them out."""
    text = value.strip()
    if len(text) > 1 and text[:1] == text[-1:] == b'"':
        text = text[1:-1]
    if not 0 < len(text) <= MAX_KEY:
        raise BadRequest(
            f"an Idempotency-Key has 1 to {MAX_KEY} characters", param="idempotency-key"
        )
    return text.decode("latin-1")
