"""Options of the plugin."""

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(gt=0)]
Path = Annotated[str, Meta(min_length=1)]

DAY = 86_400.0
GIB = 1024**3


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How large uploads may be, how long they are kept, and where their models go.

    `files`: the folder of uploads; None: beside the database. `cache`: the cache of the hub that
    gets the models; None: that of the environment, as the hub's tools find it. Times are seconds.
    An upload expires `expires` after its latest byte; what became of it can be read for
    `keep_results` after its end. `idle`: after which a caller that sends nothing is cut off.
    `hand_over`: how long a request waits for another one of the same upload to stop. At most
    `max_at_once` uploads of a key are received at a time, further ones wait; at most
    `max_open_per_key` may be unfinished. An archive may be unpacked to `max_ratio` times its size
    (small ones to 64 MiB), but not to more than `max_unpacked_bytes` and `max_members` files and
    folders. `keep_free_gb` stay free on the disks (1 GB: 10^9 bytes). A model that was replaced
    is removed after `keep_replaced`, once nobody holds a lock on it. `stalled`: after which an
    installation without progress has failed.
    """

    files: Path | None = None
    cache: Path | None = None
    max_bytes: Count = 200 * GIB
    expires: Seconds = 7 * DAY
    keep_results: Seconds = 7 * DAY
    idle: Seconds = 60.0
    hand_over: Seconds = 20.0
    max_at_once: Count = 4
    max_open_per_key: Count = 100
    max_ratio: Annotated[float, Meta(ge=1)] = 4.0
    max_unpacked_bytes: Count = 1024 * GIB
    max_members: Count = 100_000
    keep_free_gb: Annotated[float, Meta(ge=0)] = 1.0
    keep_replaced: Annotated[float, Meta(ge=0)] = 3_600.0
    stalled: Seconds = 300.0
