"""Which trajectories a trainer wants: conditions on open ones, and on sessions to be read."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway import ForkKind, Value
from gateway_plugins.trace_capture.sessions.owners import SqlParams

Order = Literal["age", "version"]
Ready = Literal["rewarded", "idle", "either"]

Kind = ForkKind | Literal["none"]

Text = Annotated[str, Meta(max_length=4096)]
Version = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Scalar = str | Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | float | bool

MAX_LISTED = 16
"""Maximum number of kinds and of metadata that one request may name."""

READY_IDLE = 60.0
"""Seconds without a new call after which a session is taken to be over."""


class ClaimFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions on trajectories; all that are given must hold. Times are Unix seconds.

    `ready` says when a session is over: it has a reward of its own, no call of it has begun for
    `idle_seconds`, or either. `model` and `harness` are those of the last call, which began at
    `since` or later. `principal` owns the session, whose id begins with `session_prefix`, and whose
    metadata has these values. `fork_kind` are the wanted kinds, "none" for a branch that leaves no
    other. The latest reward of the session, or of the last call, is at least `min_reward`. All
    tokens to teach have a weight version of at least `min_weight_version`, and at most
    `max_staleness` below the current one.
    """

    ready: Ready = "either"
    idle_seconds: Seconds = READY_IDLE
    model: Text | None = None
    principal: Text | None = None
    session_prefix: Text | None = None
    metadata: Annotated[dict[str, Scalar], Meta(max_length=MAX_LISTED)] = {}
    harness: Text | None = None
    fork_kind: Annotated[list[Kind], Meta(max_length=MAX_LISTED)] | None = None
    allow_incomplete: bool = False
    since: Seconds | None = None
    min_reward: float | None = None
    min_weight_version: Version | None = None
    max_staleness: Annotated[int, Meta(ge=0, le=1 << 62)] | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What is wanted at `now` (Unix seconds), of this owner's sessions, or of anybody's (None).

    `min_version` is the lowest weight version, whether given or computed; None: any. In the order
    `age`, no trajectory that matches was open whose call began before `open_from`, and no session
    was to be read whose latest call began before `grown_from`.
    """

    filter: ClaimFilter
    owner: str | None
    min_version: int | None
    now: float
    order: Order = "age"
    open_from: float | None = None
    grown_from: float | None = None


_LAST_REWARD = """
(SELECT value FROM rewards WHERE rewards.session_id = o.session_id
    AND (rewards.trace_id IS NULL OR rewards.trace_id = o.trace_id)
    ORDER BY number DESC LIMIT 1) >= :min_reward
"""
_METADATA = """
EXISTS (SELECT 1 FROM sessions, json_each(sessions.metadata) AS given
    WHERE sessions.session_id = h.session_id AND given.key = :key{0} AND given.value = :value{0})
"""


def of_sessions(wanted: Wanted) -> tuple[str, SqlParams]:
    """Return a condition on the session `h`, but for whether it is over, with its parameters."""
    filter_ = wanted.filter
    found = ["TRUE"]
    params: SqlParams = {"now": wanted.now}
    if wanted.owner is not None:
        found.append("h.owner = :owner")
        params["owner"] = wanted.owner
    if filter_.session_prefix is not None:
        found.append("substr(h.session_id, 1, :length) = :prefix")
        params |= {"prefix": filter_.session_prefix, "length": len(filter_.session_prefix)}
    for place, (key, value) in enumerate(filter_.metadata.items()):
        found.append(_METADATA.format(place))
        params |= {f"key{place}": key, f"value{place}": value}
    return " AND ".join(found), params


def over(wanted: Wanted) -> list[tuple[str, SqlParams]]:
    """Return the conditions of which one must hold for the session `h` to be over."""
    idle: SqlParams = {"idle_since": wanted.now - wanted.filter.idle_seconds}
    found: list[tuple[str, SqlParams]] = []
    if wanted.filter.ready != "rewarded":
        found.append(("h.last_at <= :idle_since", idle))
    if wanted.filter.ready != "idle":
        found.append(("h.rewarded = 1", {}))
    return found


def of_open(wanted: Wanted) -> tuple[str, SqlParams]:
    """Return a condition on the open trajectory `o` of the session `h`, with its parameters.

    It leaves out weight versions, and whether the trajectory is COMPLETE.
    """
    condition, params = of_sessions(wanted)
    ready = over(wanted)
    found = [condition, f"({' OR '.join(one for one, _ in ready)})"]
    for _, more in ready:
        params |= more
    for more_condition, name, value in _of_values(wanted):
        found.append(more_condition)
        params[name] = value
    return " AND ".join(found), params


def _of_values(wanted: Wanted) -> Iterator[tuple[str, str, Value]]:
    filter_ = wanted.filter
    if wanted.owner is not None:
        yield "o.owner = :owner", "owner", wanted.owner
    if filter_.model is not None:
        yield "o.model = :model", "model", filter_.model
    if filter_.harness is not None:
        yield "o.harness = :harness", "harness", filter_.harness
    at = "o.at" if wanted.order == "age" else "+o.at"  # +: the index on the order is to be used
    if filter_.since is not None:
        yield f"{at} >= :since", "since", filter_.since
    if wanted.open_from is not None:
        yield f"{at} >= :open_from", "open_from", wanted.open_from
    if filter_.min_reward is not None:
        yield _LAST_REWARD, "min_reward", filter_.min_reward
    if filter_.fork_kind is not None:
        kinds = msgspec.json.encode(filter_.fork_kind).decode()
        yield "o.fork_kind IN (SELECT value FROM json_each(:fork_kinds))", "fork_kinds", kinds
