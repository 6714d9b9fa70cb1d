"""What a request says of itself: whether it is a retry, and of what."""

from collections.abc import Collection

import msgspec

from gateway import BadRequest, Call

MAX_KEY = 255
"""Characters of an Idempotency-Key."""

KEY = b"idempotency-key"

Place = tuple[str | None, str | None, str, bytes, int]


class Request(msgspec.Struct, frozen=True, gc=False):
    """What a retry has in common with the call that it repeats.

    `place` is what is quickly compared: principal, session, path as the caller sent it, query, and
    the length of the body. `key` is the Idempotency-Key, if any.
    """

    place: Place
    body: bytes
    key: str | None

    @property
    def owner_and_key(self) -> tuple[str | None, str | None]:
        return self.place[0], self.key

    @property
    def has_session(self) -> bool:
        return self.place[1] is not None


def said_by(call: Call, counting: Collection[bytes]) -> tuple[str | None, int | None]:
    """Return the Idempotency-Key, and the number of retries, None if the client counts none.

    `counting` are the names of headers that count retries. Raises BadRequest if the key is too long
    or empty.
    """
    key, retries = None, None
    for name, value in call.headers:
        if name == KEY:
            key = _key(value)
        elif name in counting and value.isdigit():
            retries = int(value[:9]) or retries or 0
    return key, retries


def request_of(call: Call, key: str | None) -> Request:
    """Return what identifies a call whose body was read."""
    principal, body = None if call.principal is None else call.principal.id, call.body.data or b""
    place = (principal, call.session_id, call.asked_path, call.query, len(body))
    return Request(place, body, key)


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
