"""Types of request fields that several routes share."""

from typing import Annotated

from msgspec import Meta

from gateway import ControlRequest

MAX_SESSIONS = 10_000
"""Maximum number of sessions that one request may name."""

BATCH_DELETE = "batch_delete"
"""The last segment of a route, and possibly the id of a session."""

SessionIdList = Annotated[list[str], Meta(max_length=MAX_SESSIONS)]

ShortText = Annotated[str, Meta(max_length=4096)]
"""A name to look for."""

Timestamp = Annotated[float, Meta(ge=0, le=1e12)]
"""Unix seconds."""

Limit = Annotated[int, Meta(ge=0, le=1 << 53)]
"""Maximum number of rows."""


def session_id_of(request: ControlRequest) -> str:
    """Return the session id in the path. A path without a name for it is that of `batch_delete`."""
    return request.params.get("session_id", BATCH_DELETE)
