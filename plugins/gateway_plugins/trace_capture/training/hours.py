"""Counts of calls, sessions and tokens by hour, so that nobody has to read the traces for them.

Traces are counted in the order of their numbers, some time after they are stored, so a call costs
nothing more; `training_counted` has the last one that was. The counts stay when traces are deleted:
trainers delete what they have read. Numbers stand for names: a `kind` for the harness, the worker
and the model of a call, and a hash for the id of a session.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from gateway import Database

HOUR = 3600.0
"""Seconds."""

KEEP_HOURS = 31 * 24
"""Hours that are kept."""

SLICE = 5_000
"""Traces that are counted at a time."""

MAX_NAME = 200
"""Characters of the name of a model: a caller chooses it."""

MAX_ROWS = 1_000_000
"""Rows of each table; the oldest hours are forgotten first."""

TABLES = """
CREATE TABLE training_kinds (
    kind INTEGER PRIMARY KEY, harness TEXT NOT NULL, worker TEXT NOT NULL, model TEXT NOT NULL
);
CREATE TABLE training_hours (
    hour INTEGER NOT NULL, kind INTEGER NOT NULL,
    calls INTEGER NOT NULL, complete INTEGER NOT NULL,
    sampled INTEGER NOT NULL, trainable INTEGER NOT NULL,
    PRIMARY KEY (hour, kind)
) WITHOUT ROWID;
CREATE TABLE training_sessions (
    hour INTEGER NOT NULL, kind INTEGER NOT NULL, session INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    PRIMARY KEY (hour, kind, session)
) WITHOUT ROWID;
CREATE TABLE training_reasons (
    hour INTEGER NOT NULL, kind INTEGER NOT NULL, reason TEXT NOT NULL,
    calls INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (hour, kind, reason)
) WITHOUT ROWID;
CREATE TABLE training_counted (number INTEGER NOT NULL);
INSERT INTO training_counted SELECT coalesce(max(number), 0) FROM traces
"""
"""`complete` of a session: 1 if all of its calls in that hour were COMPLETE, else 0."""

_CUT_OFF = frozenset({"caller_gone", "worker_broke_off"})

_COUNTED = ("training_hours", "training_sessions", "training_reasons")

_KINDS = "INSERT INTO training_kinds (kind, harness, worker, model)"
_HOURS = "INSERT INTO training_hours (hour, kind, calls, complete, sampled, trainable)"
_MORE_HOURS = """
ON CONFLICT (hour, kind) DO UPDATE SET
    calls = calls + excluded.calls,
    complete = complete + excluded.complete,
    sampled = sampled + excluded.sampled,
    trainable = trainable + excluded.trainable
"""
_SESSIONS = "INSERT INTO training_sessions (hour, kind, session, complete)"
_WORSE_SESSIONS = """
ON CONFLICT (hour, kind, session) DO UPDATE SET complete = 0
WHERE excluded.complete = 0 AND complete = 1
"""
_REASONS = "INSERT INTO training_reasons (hour, kind, reason, calls, tokens)"
_MORE_REASONS = """
ON CONFLICT (hour, kind, reason) DO UPDATE SET
    calls = calls + excluded.calls,
    tokens = tokens + excluded.tokens
"""

_COUNTED_TO = "SELECT number FROM training_counted"
_LOOK_BACK = """
UPDATE training_counted SET number = (SELECT coalesce(max(number), 0) FROM traces)
WHERE number > (SELECT coalesce(max(number), 0) FROM traces)
"""

_FORGET = """
DELETE FROM {0} WHERE hour < :before OR hour <= coalesce(
    (SELECT hour FROM {0} ORDER BY hour DESC LIMIT 1 OFFSET :most), 0
)
"""
_FORGET_KINDS = """
DELETE FROM training_kinds WHERE kind NOT IN (SELECT kind FROM training_hours)
"""

_NEW = """
SELECT number, timestamp, session_id, complete, coalesce(harness, 'unknown'),
    coalesce(worker, ''), model, coalesce(sampled, 0), coalesce(trainable, 0),
    coalesce(reasons, '')
FROM traces WHERE number > :after ORDER BY number LIMIT :limit
"""
"""An earlier version that shares the file stores traces without these."""


def catch_up(db: Database) -> None:
    """Count the traces that nobody has counted yet, within a transaction of the writer.

    The counts of all processes are exact after it. Call it before traces are deleted.
    """
    while _count_some(db) == SLICE:
        pass


def look_back(db: Database) -> None:
    """Note that the newest traces may be deleted, so that their numbers are given again."""
    db.execute(_LOOK_BACK)


def _count_some(db: Database) -> int:
    """Count a slice; return the number of traces in it."""
    [(after,)] = db.select(_COUNTED_TO)
    rows = list(db.select(_NEW, {"after": after, "limit": SLICE}))
    if rows:
        group = _Group()
        for _, *values in rows:
            group.add(_Call(*values))
        group.write(db)
        db.execute("UPDATE training_counted SET number = :to", {"to": rows[-1][0]})
    return len(rows)


def forget_old(db: Database, now: float) -> None:
    """Forget the hours that are older than KEEP_HOURS, and those beyond MAX_ROWS rows."""
    before = int(now // HOUR) - KEEP_HOURS
    forgotten = 0
    for table in _COUNTED:
        forgotten += db.execute(_FORGET.format(table), {"before": before, "most": MAX_ROWS})
    if forgotten:
        db.execute(_FORGET_KINDS)


def causes(reasons: Sequence[str]) -> Sequence[str]:
    """Return the reasons of a call without `unfinished` where another one is the cause of it.

    A choice that was cut off has no finish reason, but the log of the worker does not say why.
    """
    cut_off = not _CUT_OFF.isdisjoint(reasons)
    return [one for one in reasons if one != "unfinished"] if cut_off else reasons


class _Call(NamedTuple):
    """A call to count; `reasons` are separated by spaces."""

    timestamp: float
    session_id: str | None
    complete: int
    harness: str
    worker: str
    model: str
    sampled: int
    trainable: int
    reasons: str


class _Group:
    """The counts of a slice."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str, str], int] = {}
        self.hours: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self.sessions: dict[tuple[int, int, int], list[int]] = {}
        self.reasons: dict[tuple[int, int, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, call: _Call) -> None:
        hour, kind = int(call.timestamp // HOUR), self._kind(call)
        sums = self.hours[hour, kind]
        sums[0] += 1
        sums[1] += call.complete
        sums[2] += call.sampled
        sums[3] += call.trainable
        if call.session_id is not None:
            self._add_session((hour, kind, _number(call.session_id)), call.complete)
        for reason in causes(call.reasons.split()):
            lost = self.reasons[hour, kind, reason]
            lost[0] += 1
            lost[1] += call.sampled - call.trainable

    def _kind(self, call: _Call) -> int:
        names = call.harness, call.worker, call.model[:MAX_NAME]
        kind = self.kinds.get(names)
        if kind is None:
            kind = self.kinds[names] = _number("\0".join(names))
        return kind

    def _add_session(self, key: tuple[int, int, int], complete: int) -> None:
        before = self.sessions.get(key, [1])
        self.sessions[key] = [min(before[0], complete)]

    def write(self, db: Database) -> None:
        kinds = [(kind, *names) for names, kind in self.kinds.items()]
        db.insert(_KINDS, kinds, "ON CONFLICT (kind) DO NOTHING")
        db.insert(_HOURS, _rows(self.hours), _MORE_HOURS)
        if self.sessions:
            db.insert(_SESSIONS, _rows(self.sessions), _WORSE_SESSIONS)
        if self.reasons:
            db.insert(_REASONS, _rows(self.reasons), _MORE_REASONS)


def _rows(counts: Mapping[Any, list[int]]) -> list[list[object]]:
    return [[*key, *sums] for key, sums in counts.items()]


def _number(text: str) -> int:
    """Return 64 bits that stand for a text."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
