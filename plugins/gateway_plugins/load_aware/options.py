"""Options of the plugin."""

from typing import Annotated

import msgspec
from msgspec import Meta

Weight = Annotated[float, Meta(ge=0)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where and how often engines are asked for their load, and what counts how much.

    `path` is that of an engine's metrics. `interval` and `timeout` are seconds; what an engine has
    told counts for `max_age` seconds. `max_bytes` is the size of the metrics that are read.
    `waiting_weight` is what a call in the engine's queue counts beside a call that it has;
    `kv_weight` is the share by which a full cache increases the load.
    """

    path: Annotated[str, Meta(pattern="^/")] = "/metrics"
    interval: Annotated[float, Meta(gt=0)] = 1.0
    timeout: Annotated[float, Meta(gt=0)] = 1.0
    max_age: Annotated[float, Meta(gt=0)] = 5.0
    max_bytes: Annotated[int, Meta(gt=0)] = 4_194_304
    waiting_weight: Weight = 1.0
    kv_weight: Weight = 1.0
