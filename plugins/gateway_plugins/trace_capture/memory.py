"""What the writer remembers of the sessions that it lately wrote to."""

import logging
import sqlite3
from collections import OrderedDict, deque

import msgspec

from gateway_plugins.trace_capture.lineage import Lineage
from gateway_plugins.trace_capture.packing import Codec
from gateway_plugins.trace_capture.reading import Reader, Unreadable
from gateway_plugins.trace_capture.rows import Ends, Place, unpack_ends

log = logging.getLogger("gateway.trace_capture")

DEEPEST = 256
"""Rows that lean on one another; the next one stands by itself, so that reading stays quick."""

RECENT = 16
"""Traces of a session whose bytes are at hand: the branches that it may go on from."""

LARGEST = 1024 * 1024
"""Bytes of a session that are at hand; the latest trace always is."""

STUB = 800
"""About the bytes that a trace costs in memory besides its request and its sequence."""

BARE = 2_600
"""About the bytes that a session costs in memory besides its traces."""


_LATEST = "SELECT trace_id FROM traces WHERE session_id = ? ORDER BY number DESC LIMIT 1"


class Known(msgspec.Struct, eq=False):
    """An earlier trace. `request` is None where it is not at hand, or must not be leant on.

    `retry_of` is the trace of the first try, where this is another one.
    """

    place: Place
    trace_id: str
    depth: int
    request: bytes | None = None
    retry_of: str | None = None
    size: int = 0


class Session(msgspec.Struct, eq=False):
    """The traces of one session; a `lineage` key is (position in `known`, choice).

    `at_hand` are the last ones, of `held` bytes, whose requests and sequences are in memory.
    `checked` is the look of Memory's at which the file was found to have these traces and no other.
    """

    lineage: Lineage
    known: list[Known]
    at_hand: deque[Known]
    size: int = BARE
    held: int = 0
    checked: int = 0

    def add(self, known: Known, sequences: list[bytes]) -> Ends:
        """Take in a trace with the bytes of all its choices; gives where they end."""
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
        """Take in a trace of which nothing else is at hand."""
        for choice, (length, digest) in enumerate(ends):
            self.lineage.add_digest((len(self.known), choice), length, digest)
        self.known.append(known)
        self.size += STUB

    def _drop(self, known: Known) -> None:
        self.size -= known.size
        self.held -= known.size
        known.request = None


class Memory:
    """The sessions written to last, at most about `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._size = 0
        self._look = 0

    def session(self, db: sqlite3.Connection, session_id: str, codec: Codec) -> Session:
        """What is known of it, from the file where it is not at hand."""
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
        """A session has grown by so many bytes; those not used for longest go."""
        self._size += by
        while self._size > self._limit and len(self._sessions) > 1:
            _, oldest = self._sessions.popitem(last=False)
            self._size -= oldest.size

    def doubt(self) -> None:
        """Traces of these sessions may have come from another process, or been deleted."""
        self._look += 1

    def knows(self, session: Session) -> bool:
        """Whether nothing has happened since the session was looked at."""
        return session.checked == self._look

    def _check(self, db: sqlite3.Connection, session_id: str, session: Session) -> Session | None:
        """The session, where its latest trace in the file is the latest that is known to be there.

        Then so are all before: numbers ascend, and a session is only ever deleted as a whole.
        """
        there = (one.trace_id for one in reversed(session.known) if one.place.number is not None)
        latest = db.execute(_LATEST, (session_id,)).fetchone()
        if latest == ((known,) if (known := next(there, None)) is not None else None):
            return session
        self._size -= session.size
        return None

    def forget(self) -> None:
        """Rows are not, or no longer, in the file."""
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
    """False where a damaged file does not give it back: then nothing may lean on it either."""
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
