"""Types of request fields that several routes share."""

from typing import Annotated

from msgspec import Meta

MAX_SESSIONS = 10_000
"""Maximum number of sessions that one request may name."""

SessionIdList = Annotated[list[str], Meta(max_length=MAX_SESSIONS)]

Timestamp = Annotated[float, Meta(ge=0, le=1e12)]
"""Unix seconds."""

Limit = Annotated[int, Meta(ge=0, le=1 << 53)]
"""Maximum number of rows."""
