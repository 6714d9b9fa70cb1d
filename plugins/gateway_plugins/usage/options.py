"""Options of the plugin `usage`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway_plugins.usage.ledger.row import MAX_NAME

Days = Annotated[int, Meta(ge=1, le=36_500)] | None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long daily sums and single calls are kept, and the key of calls without a principal.

    `keep_days` and `keep_calls_days` are numbers of whole days before today; null keeps for ever.
    `internal_id` is the key of calls without a principal: all calls if no plugin authenticates,
    else the gateway's own jobs.
    """

    keep_days: Days = 90
    keep_calls_days: Days = 31
    internal_id: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)] = "internal"
