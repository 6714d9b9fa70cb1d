"""What the policy sees, and what it says. All times are `time.monotonic()` seconds."""

from collections.abc import Mapping
from typing import Literal

import msgspec

Phase = Literal["idle", "loading", "hot", "draining", "failed"]


class Demand(msgspec.Struct, kw_only=True):
    """What is wanted of one model that this runtime may load.

    `held`: realtime calls that wait for the model, the oldest since `held_since`; `urgent`: one of
    them has an urgent key. `in_flight`: realtime calls at its engine. `realtime_at`: when the
    latest realtime call for it was admitted, None: never. `arrivals`: realtime calls a second, of
    late. `queued` and `running`: batch items; the oldest that waits was submitted at
    `queued_since`; `priority`: the highest of those that wait. `barred_until`: no start before
    that, after a failure (infinite: none at all, as while the model is not on the disk).
    `load_time`: seconds that a load takes. `elsewhere`: another runtime has the model, or loads it.
    """

    held: int = 0
    held_since: float | None = None
    urgent: bool = False
    in_flight: int = 0
    realtime_at: float | None = None
    arrivals: float = 0.0
    queued: int = 0
    running: int = 0
    queued_since: float | None = None
    priority: int = 0
    barred_until: float = 0.0
    load_time: float = 60.0
    elsewhere: bool = False


class View(msgspec.Struct, kw_only=True):
    """A runtime at `now`: in `phase` with `model` since `since`, and what is wanted of it.

    `began_for_batch`: the model was brought here for batch items. In the phase "draining", `model`
    is the model that is to come.
    """

    now: float
    phase: Phase
    model: str | None
    since: float
    began_for_batch: bool = False
    demands: Mapping[str, Demand] = {}


Cause = Literal["realtime", "batch", "starving", "return"]


class Decision(msgspec.Struct, frozen=True):
    """The model that the runtime should have; `reason` in words, for people.

    `cause` is None if nothing is to change, and `model` is then the present one.
    """

    model: str | None
    cause: Cause | None
    reason: str
