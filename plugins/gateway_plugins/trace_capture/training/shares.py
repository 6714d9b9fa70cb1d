"""Which share of the calls, the sessions and the tokens of some hours can be trained on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from gateway import Database
from gateway_plugins.trace_capture.training.advice import DOCS, advice_on
from gateway_plugins.trace_capture.training.hours import HOUR

Dimension = Literal["harness", "worker", "model"]

MAX_GROUPS = 100
"""Groups of a dimension: those with the most calls."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a group of calls, and of those that can be trained on.

    `sessions` had a call in the group; `complete_sessions` had no call in it that is INCOMPLETE.
    """

    calls: int = 0
    complete_calls: int = 0
    sessions: int = 0
    complete_sessions: int = 0
    sampled_tokens: int = 0
    trainable_tokens: int = 0


class Named(Share, frozen=True, kw_only=True):
    """The calls of one harness, worker or model; "" if no worker took them."""

    name: str


class Hour(Share, frozen=True, kw_only=True):
    """The calls of one hour, which begins at `at` (Unix seconds)."""

    at: float


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """What a reason has cost, and what to do about it; `docs` is the place in the manual.

    A call with several reasons counts under each of them. `tokens` were sampled in vain.
    """

    reason: str
    calls: int
    tokens: int
    what_to_do: str
    docs: str = DOCS


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """The health of training data from `since` to `until` (Unix seconds), in whole hours."""

    since: float
    until: float
    total: Share
    hours: Sequence[Hour]
    harnesses: Sequence[Named]
    workers: Sequence[Named]
    models: Sequence[Named]
    reasons: Sequence[Lost]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Hours `first` to `last`, numbers since the epoch; calls of these only, of all if None."""

    first: int
    last: int
    harness: str | None = None
    worker: str | None = None
    model: str | None = None


_CALLS = """
SELECT {by}, sum(calls), sum(complete), sum(sampled), sum(trainable)
FROM training_hours JOIN training_kinds USING (kind) WHERE {where} GROUP BY 1
"""
_SESSIONS = """
SELECT name, count(*), sum(whole) FROM (
    SELECT {by} AS name, session, min(complete) AS whole
    FROM training_sessions JOIN training_kinds USING (kind) WHERE {where} GROUP BY 1, session
) AS found GROUP BY name
"""
_REASONS = """
SELECT reason, sum(calls), sum(tokens)
FROM training_reasons JOIN training_kinds USING (kind) WHERE {where} GROUP BY reason
ORDER BY 2 DESC, reason
"""


def training(db: Database, wanted: Wanted) -> Training:
    """Return the shares of the wanted hours, as far as the traces have been counted."""
    return Training(
        since=wanted.first * HOUR,
        until=(wanted.last + 1) * HOUR,
        total=_shares(db, "1", wanted).get(1, Share()),
        hours=_by_hour(db, wanted),
        harnesses=_named(db, "harness", wanted),
        workers=_named(db, "worker", wanted),
        models=_named(db, "model", wanted),
        reasons=_reasons(db, wanted),
    )


def _by_hour(db: Database, wanted: Wanted) -> list[Hour]:
    found = _shares(db, "hour", wanted)
    hours = [Hour(at=float(hour) * HOUR, **_fields(one)) for hour, one in found.items()]
    return sorted(hours, key=lambda one: one.at)


def _named(db: Database, dimension: Dimension, wanted: Wanted) -> list[Named]:
    found = _shares(db, dimension, wanted)
    named = [Named(name=str(name), **_fields(one)) for name, one in found.items()]
    return sorted(named, key=lambda one: (-one.calls, one.name))[:MAX_GROUPS]


def _reasons(db: Database, wanted: Wanted) -> list[Lost]:
    where, params = _where(wanted)
    rows = db.select(_REASONS.format(where=where), params)
    return [
        Lost(reason=reason, calls=calls, tokens=tokens, what_to_do=advice_on(reason))
        for reason, calls, tokens in rows
    ]


def _shares(db: Database, by: str, wanted: Wanted) -> Mapping[Any, Share]:
    where, params = _where(wanted)
    sessions = {
        name: (count, whole)
        for name, count, whole in db.select(_SESSIONS.format(by=by, where=where), params)
    }
    found = {}
    for name, calls, complete, sampled, trainable in db.select(
        _CALLS.format(by=by, where=where), params
    ):
        count, whole = sessions.get(name, (0, 0))
        found[name] = Share(
            calls=calls,
            complete_calls=complete,
            sessions=count,
            complete_sessions=whole,
            sampled_tokens=sampled,
            trainable_tokens=trainable,
        )
    return found


def _where(wanted: Wanted) -> tuple[str, dict[str, int | str]]:
    params: dict[str, int | str] = {"first": wanted.first, "last": wanted.last}
    conditions = ["hour >= :first", "hour <= :last"]
    for name in ("harness", "worker", "model"):
        value = getattr(wanted, name)
        if value is not None:
            params[name] = value
            conditions.append(f"{name} = :{name}")
    return " AND ".join(conditions), params


def _fields(share: Share) -> dict[str, int]:
    return {name: getattr(share, name) for name in Share.__struct_fields__}
