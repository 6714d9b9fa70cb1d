"""Caches the sessions that the writer wrote to last."""

import logging
import sqlite3
from collections import OrderedDict, deque

import msgspec

from gateway_plugins.trace_capture.codec import Codec
from gateway_plugins.trace_capture.recording.row import Ends, Place, unpack_ends
from gateway_plugins.trace_capture.sequences.lineage import Lineage
from gateway_plugins.trace_capture.store.row_decoder import Reader, Unreadable

log = logging.getLogger("gateway.trace_capture")

DEEPEST = 256
"""Maximum length of a chain of bases, so that reading stays fast; the next row has no base."""

RECENT = 16
"""Maximum traces cached with their bytes per session: the branches that a prompt may continue."""

LARGEST = 1024 * 1024
"""Maximum cached bytes per session; the latest trace is cached even if it is larger."""

STUB = 800
"""Approximate bytes of memory per trace, besides its request and its sequences."""

BARE = 2_600
"""Approximate bytes of memory per session, besides its traces."""


_LATEST = "SELECT trace_id FROM traces WHERE session_id = ? ORDER BY number DESC LIMIT 1"


class Known(msgspec.Struct, eq=False):
    """An earlier trace. `request` is None if it is not cached, or must not be a delta base.

    `retry_of` is the id of the first trace of the same request, if this one is a retry.
    """

    place: Place
    trace_id: str
    depth: int
    request: bytes | None = None
    retry_of: str | None = None
    size: int = 0


class Session(msgspec.Struct, eq=False):
    """The traces of one session; a `lineage` key is (position in `known`, choice).

    `at_hand`: the latest traces whose requests and sequences are in memory (`held` bytes in all).
    `checked`: the value of Memory's counter `_look` when the file was last found to hold exactly
    these traces.
    """

    lineage: Lineage
    known: list[Known]
    at_hand: deque[Known]
    size: int = BARE
    held: int = 0
    checked: int = 0

    def add(self, known: Known, sequences: list[bytes]) -> Ends:
        """Add a trace with the sequences of its choices; return their lengths and digests."""
        position = len(self.known)
        self.known.append(known)
        ends = [
            (len(sequence), self.lineage.add((position, choice), sequence))
            for choice, sequence in enumerate(sequences)
        ]
        known.size = len(known.request or b"") + sum(map(len, sequences))
        self.size += STUB + known.size
        self.held += known.size
        self.at_hand.append(known)
        while len(self.at_hand) > 1 and (len(self.at_hand) > RECENT or self.held > LARGEST):
            self._drop(self.at_hand.popleft())
        return ends

    def add_ends(self, known: Known, ends: Ends) -> None:
        """Add a trace of which only the lengths and digests of its sequences are known."""
        for choice, (length, digest) in enumerate(ends):
            self.lineage.add_digest((len(self.known), choice), length, digest)
        self.known.append(known)
        self.size += STUB

    def _drop(self, known: Known) -> None:
        self.size -= known.size
        self.held -= known.size
        known.request = None


class Memory:
    """The sessions written to last, at most about `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._size = 0
        self._look = 0

    def session(self, db: sqlite3.Connection, session_id: str, codec: Codec) -> Session:
        """Return the session, loaded from the file if it is not cached."""
        session = self._sessions.pop(session_id, None)
        if session is not None and session.checked != self._look:
            session = self._check(db, session_id, session)
        if session is None:
            session = self._load(db, session_id, codec)
            self._size += session.size
        session.checked = self._look
        self._sessions[session_id] = session
        return session

    def grown(self, by: int) -> None:
        """Count `by` more bytes for a session; drop the least recently used ones over the limit."""
        self._size += by
        while self._size > self._limit and len(self._sessions) > 1:
            _, oldest = self._sessions.popitem(last=False)
            self._size -= oldest.size

    def doubt(self) -> None:
        """Have all sessions checked again: another process may have added or deleted traces."""
        self._look += 1

    def knows(self, session: Session) -> bool:
        """Whether `doubt` was not called since the session was checked."""
        return session.checked == self._look

    def _check(self, db: sqlite3.Connection, session_id: str, session: Session) -> Session | None:
        """Return the session if its latest stored trace is also the latest one in the file.

        All earlier ones are then in the file too: numbers ascend, and a session is only ever
        deleted as a whole. Otherwise returns None.
        """
        there = (one.trace_id for one in reversed(session.known) if one.place.number is not None)
        latest = db.execute(_LATEST, (session_id,)).fetchone()
        if latest == ((known,) if (known := next(there, None)) is not None else None):
            return session
        self._size -= session.size
        return None

    def forget(self) -> None:
        """Drop all sessions: some of their rows may not be in the file."""
        self._sessions.clear()
        self._size = 0

    def _load(self, db: sqlite3.Connection, session_id: str, codec: Codec) -> Session:
        session = Session(Lineage(RECENT, LARGEST), [], deque())
        rows = db.execute(
            "SELECT number, trace_id, depth, ends FROM traces WHERE session_id = ? ORDER BY number",
            (session_id,),
        ).fetchall()
        reader = Reader(db, codec)
        old = len(rows) - RECENT // 2
        for place, (number, trace_id, depth, ends) in enumerate(rows):
            known = Known(Place(number), trace_id, depth)
            if place < old or not _add_whole(session, known, reader, unpack_ends(ends)):
                session.add_ends(known, unpack_ends(ends))
        return session


def _add_whole(session: Session, known: Known, reader: Reader, ends: Ends) -> bool:
    """Return False if a damaged file does not yield the trace; it then must not be a base."""
    try:
        material = reader.material(known.place.number or 0)
    except Unreadable as error:
        log.error("%s; later turns of its session do not lean on it", error)
        known.depth = DEEPEST
        return False
    known.request, known.retry_of = material.request, material.retry_of
    sequences = zip(material.sequences, ends, strict=False)
    session.add(known, [one if length else b"" for one, (length, _) in sequences])
    return True
