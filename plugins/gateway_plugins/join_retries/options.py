"""Options of the plugin."""

from typing import Annotated

import msgspec
from msgspec import Meta

KIB, MIB = 1024, 1024 * 1024

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9-]+$")]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long calls and responses wait for a retry, and how much memory they may take.

    `grace`: seconds that a call goes on after its caller has left. `keep`: seconds that a whole
    response is kept after its end. `count_headers` name the request headers in which clients count
    their retries. `same_body`: seconds after its caller left in which a call of a session also has
    a retry that counts nothing, if the body is the same; null: never. At most `max_response_bytes`
    of one response are kept, and `max_bytes` in all, requests included.
    """

    grace: Seconds = 15.0
    keep: Seconds = 60.0
    count_headers: tuple[Name, ...] = ("x-stainless-retry-count",)
    same_body: Seconds | None = None
    max_response_bytes: Annotated[int, Meta(ge=64 * KIB)] = 16 * MIB
    max_bytes: Annotated[int, Meta(ge=MIB)] = 256 * MIB
