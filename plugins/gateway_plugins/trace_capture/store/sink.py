"""Stores records as rows, delta-encoded against earlier rows; runs in the writer's thread."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from gateway import Database, Kernel, Trace
from gateway_plugins.trace_capture.codec import Codec
from gateway_plugins.trace_capture.recording.hooks import Hooks
from gateway_plugins.trace_capture.recording.observer import Capture
from gateway_plugins.trace_capture.recording.public_trace import trace_of
from gateway_plugins.trace_capture.recording.record import Record, make_record
from gateway_plugins.trace_capture.store.deletions import Deletions
from gateway_plugins.trace_capture.store.losses import Loss, Losses
from gateway_plugins.trace_capture.store.row import INSERT, Row
from gateway_plugins.trace_capture.store.row_encoder import changed_row, encode_row
from gateway_plugins.trace_capture.store.session_cache import CachedSession, SessionCache
from gateway_plugins.trace_capture.training.totals import Totals

MAX_MEMORY_BYTES = 64 * 1024 * 1024
"""Bytes of memory for sessions' requests and sequences, cached for their next turns."""

INSERT_SESSIONS = """
INSERT INTO sessions
    (session_id, owner, created_at, last_at, traces, incomplete, lost, sampled, trainable)
"""
ON_CONFLICT = """
ON CONFLICT (session_id) DO UPDATE SET
    last_at = max(last_at, excluded.last_at),
    traces = traces + excluded.traces,
    incomplete = incomplete + excluded.incomplete,
    lost = lost + excluded.lost,
    sampled = sampled + excluded.sampled,
    trainable = trainable + excluded.trainable
"""

INSERT_PARENTS = "INSERT INTO session_parents (session_id, parent_id)"
ON_PARENT_CONFLICT = "ON CONFLICT (session_id) DO NOTHING"


class Prepared(msgspec.Struct, eq=False):
    """The result of `prepare`: the row, and the data needed to build it again.

    `row` is None if the session was deleted while the call ran: nothing is stored. `connection` is
    the number of the connection with which it was built.
    """

    row: Row | None
    capture: Capture
    connection: int
    session: CachedSession | None = None
    trace: Trace | None = None


class TraceSink:
    """A gateway Sink of Captures, for the writer's thread.

    `losses` counts the traces that could not be stored, until the file counts them. `committed`
    counts all stored traces by verdict, `totals` by what can be trained on. `lost_count` counts all
    lost ones, and `late_count` those that were not stored because their session was deleted while
    the call ran.
    """

    def __init__(self, hooks: Hooks, read: Callable[[Capture], Record] = make_record) -> None:
        self.codec = Codec()
        self._read = read
        self._hooks = hooks
        self._cache = SessionCache(MAX_MEMORY_BYTES)
        self._seen: tuple[Database, int] | None = None
        self._connection = self._last_number = 0
        self._is_shared = False  # another process has written to the file
        self._first = True
        self.losses = Losses()
        self.committed: Counter[str] = Counter()
        self.totals = Totals()
        self.lost_count = 0
        self.late_count = 0
        self._deletions = Deletions()
        self._redacts = self._offers = False

    def use(self, kernel: Kernel) -> None:
        """Read responses with this kernel."""
        self._read = partial(make_record, kernel=kernel)

    def prepare(self, db: Database, item: Capture) -> Prepared:
        if self._first:
            if self._seen is None or self._seen[0] is not db or self._is_shared:
                self._check_for_other_writers(db)
            self._redacts = self._hooks.has_redact_hooks  # a reload may add hooks
            self._offers = self._hooks.has_recorded_hooks
            self._first = False
        return self._encode(db, item)

    def write(self, db: Database, rows: Sequence[Prepared]) -> None:
        self._first = True
        self._check_for_other_writers(db)
        self._drop_late(db, rows)
        connection, generation = self._connection, self._cache.generation
        for one in rows:
            session = one.session
            if one.connection == connection and (
                session is None or session.generation == generation
            ):
                continue  # as nearly all are
            if one.row is not None and not self._is_current(db, one):
                made = self._encode(db, one.capture)
                one.row, one.trace = made.row, made.trace
                one.connection, one.session = made.connection, made.session
        kept = [one.row for one in rows if one.row is not None]
        lost = self._begin_losses(db)
        if kept or lost:
            for row in kept:
                self._last_number += 1
                row.number.value = self._last_number
            db.insert(INSERT_SESSIONS, _sessions(kept, lost), ON_CONFLICT)
            db.insert(INSERT, [row.values() for row in kept], ")")
        parents = {row.session_id: row.parent_session for row in kept if row.parent_session}
        if parents:
            db.insert(INSERT_PARENTS, list(parents.items()), ON_PARENT_CONFLICT)

    def _begin_losses(self, db: Database) -> Mapping[str, Loss]:
        """Return the losses to count in the file, without those of deleted sessions."""
        marked = self.losses.begin()
        return marked and {
            session_id: loss
            for session_id, loss in marked.items()
            if not self._deletions.cover(db, session_id, loss.caller, loss.started)
        }

    def _drop_late(self, db: Database, rows: Sequence[Prepared]) -> None:
        """Leave out what `prepare` took for wanted, if the session was deleted since."""
        newest, dropped = self._deletions.newest(db), False
        for one in rows:
            row = one.row
            if row is None or row.started > newest:
                continue
            if self._deletions.cover(db, row.session_id, row.principal, row.started):
                one.row = one.trace = None
                dropped = True
        if dropped:  # other rows may have these as bases, so all are built again
            self._connection += 1
            self._cache.clear()

    def written(self, rows: Sequence[Prepared]) -> None:
        self.losses.end()
        for one in rows:
            if one.row is None:
                self.late_count += 1
                continue
            self.committed["COMPLETE" if one.row.complete else "INCOMPLETE"] += 1
            self.totals.add(one.row.facts, one.row.model, complete=one.row.complete)
            if one.trace is not None:
                self._hooks.offer(one.trace)

    def lost(self, item: Capture, error: BaseException) -> None:
        """Count a trace that will never be stored. May be called in the event loop's thread too."""
        self._seen = None  # rows that have it as a base must be built again
        self._first = True  # it may have been all of its group, and a reload adds hooks in between
        self.lost_count += 1
        call = item.call
        if call.session_id is not None:
            caller = call.principal.id if call.principal is not None else None
            self.losses.add(call.session_id, caller, call.started)

    def invalidate_cache(self) -> None:
        """Have cached sessions checked after a deletion: deleted rows must not become bases."""
        self._cache.invalidate()
        self._deletions.look_again()

    def _check_for_other_writers(self, db: Database) -> None:
        """Detect commits by another process, and a new connection.

        Done at least in the transaction, before a row is written. A row that was made before that
        on top of what the file no longer has is made again.
        """
        version = db.version()
        before, self._seen = self._seen, (db, version)
        if before is None or before[0] is not db:  # a new connection starts its own count
            self._connection += 1
            self._cache.clear()
            self._deletions.look_again()
        elif before[1] != version:
            self._is_shared = True
            self.invalidate_cache()
        else:
            return
        [(self._last_number,)] = db.select("SELECT coalesce(max(number), 0) FROM traces")

    def _is_current(self, db: Database, made: Prepared) -> bool:
        """Whether the row's chain of bases is still in the file, with no newer trace after it."""
        session, row = made.session, made.row
        if made.connection != self._connection:
            return False
        if session is None or session.generation == self._cache.generation:
            return True
        if row is None or row.session_id is None:
            return True
        return self._cache.session(db, row.session_id, self.codec) is session

    def _encode(self, db: Database, capture: Capture) -> Prepared:
        record = self._read(capture)
        if self._deletions.cover(db, record.session_id, record.head.principal, record.started):
            return Prepared(None, capture, self._connection)
        session = None
        if record.session_id is not None:
            session = self._cache.session(db, record.session_id, self.codec)
        before = session.size if session is not None else 0
        changed = self._hooks.redacted(record) if self._redacts else None
        if changed is not None:
            row = changed_row(record, changed, session, self.codec)
        else:
            row = encode_row(record, session, self.codec)
        if session is not None:
            self._cache.add_size(session.size - before)
        trace = (changed or trace_of(record)) if self._offers else None
        return Prepared(row, capture, self._connection, session, trace)


def _sessions(rows: Sequence[Row], lost: Mapping[str, Loss]) -> list[list[Any]]:
    """Return per session: first caller, first and last time, traces, incomplete and lost ones.

    Then the tokens that were sampled, and the trainable ones of them. The first caller becomes the
    owner of a new session. Times are Unix seconds.
    """
    found: dict[str, list[Any]] = {}
    for row in rows:
        session_id, when = row.session_id, row.timestamp
        if session_id is None:
            continue
        if session_id not in found:
            found[session_id] = [session_id, row.principal, when, when, 0, 0, 0, 0, 0]
        one = found[session_id]
        if when > one[3]:
            one[3] = when
        one[4] += 1
        if not row.complete:
            one[5] += 1
        one[7] += row.facts.sampled
        one[8] += row.facts.trainable
    for session_id, loss in lost.items():
        when = rows[0].timestamp if rows else time.time()
        if session_id not in found:
            found[session_id] = [session_id, loss.caller, when, when, 0, 0, 0, 0, 0]
        found[session_id][6] += loss.count
    return list(found.values())
