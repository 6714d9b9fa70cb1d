"""Caches the sessions that the writer wrote to last."""

import logging
from collections import OrderedDict, deque

import msgspec

from gateway import Database
from gateway_plugins.trace_capture.codec import Codec
from gateway_plugins.trace_capture.recording.head import Receipt
from gateway_plugins.trace_capture.sequences.lineage import Lineage
from gateway_plugins.trace_capture.store.row import RowNumber, SequenceDigests, unpack_digests
from gateway_plugins.trace_capture.store.row_decoder import RowDecoder, UnreadableRow

log = logging.getLogger("gateway.trace_capture")

MAX_DEPTH = 256
"""Maximum length of a chain of bases, so that reading stays fast; the next row has no base."""

MAX_CACHED_TRACES = 16
"""Maximum traces cached with their bytes per session: the branches that a prompt may continue."""

MAX_LOADED_TRACES = MAX_CACHED_TRACES // 2
"""Maximum traces of a session that are read with their bytes if it is not cached."""

MAX_CACHED_BYTES = 1024 * 1024
"""Maximum cached bytes per session; the latest trace is cached even if it is larger."""

TRACE_OVERHEAD = 800
"""Approximate bytes of memory per trace, besides its request and its sequences."""

SESSION_OVERHEAD = 2_600
"""Approximate bytes of memory per session, besides its traces."""


_LATEST = "SELECT trace_id FROM traces WHERE session_id = :session_id ORDER BY number DESC LIMIT 1"
_NEWEST = """
SELECT number, trace_id, depth, ends, base, content FROM traces
WHERE session_id = :session_id ORDER BY number DESC LIMIT :most
"""
_OLDER = """
SELECT number, trace_id, depth, ends FROM traces
WHERE session_id = :session_id AND number < :before ORDER BY number
"""


class KnownTrace(msgspec.Struct, eq=False):
    """An earlier trace. `request` is None if it is not cached, or must not be a delta base.

    `retry_of` is the id of the first trace of the same request, if this one is a retry. `receipt`
    is what the caller got. `retried`: a later trace is the retry of this one.
    """

    number: RowNumber
    trace_id: str
    depth: int
    request: bytes | None = None
    retry_of: str | None = None
    receipt: Receipt = "whole"
    retried: bool = False
    size: int = 0


class CachedSession(msgspec.Struct, eq=False):
    """The traces of one session; a `lineage` key is (position in `known`, choice).

    `cached`: the latest traces whose requests and sequences are in memory (`cached_bytes` in all).
    `generation`: the SessionCache's generation in which the file was last found to hold exactly
    these traces.
    """

    lineage: Lineage
    known: list[KnownTrace]
    cached: deque[KnownTrace]
    size: int = SESSION_OVERHEAD
    cached_bytes: int = 0
    generation: int = 0

    def add(self, known: KnownTrace, sequences: list[bytes]) -> SequenceDigests:
        """Add a trace with the sequences of its choices; return their lengths and digests."""
        position = len(self.known)
        self.known.append(known)
        ends = []
        size = len(known.request or b"")
        for choice, sequence in enumerate(sequences):
            length = len(sequence)
            ends.append((length, self.lineage.add((position, choice), sequence)))
            size += length
        known.size = size
        self.size += TRACE_OVERHEAD + size
        self.cached_bytes += size
        self.cached.append(known)
        while len(self.cached) > MAX_CACHED_TRACES or (
            self.cached_bytes > MAX_CACHED_BYTES and len(self.cached) > 1
        ):
            self._drop(self.cached.popleft())
        return ends

    def add_digests(self, known: KnownTrace, digests: SequenceDigests) -> None:
        """Add a trace of which only the lengths and digests of its sequences are known."""
        for choice, (length, digest) in enumerate(digests):
            self.lineage.add_digest((len(self.known), choice), length, digest)
        self.known.append(known)
        self.size += TRACE_OVERHEAD

    def _drop(self, known: KnownTrace) -> None:
        self.size -= known.size
        self.cached_bytes -= known.size
        known.request = None


class SessionCache:
    """The sessions written to last, at most about `limit` bytes in all.

    `generation` counts the calls of `invalidate`; the sessions checked since have the same.
    """

    def __init__(self, limit: int) -> None:
        self.generation = 0
        self._limit = limit
        self._sessions: OrderedDict[str, CachedSession] = OrderedDict()
        self._size = 0

    def session(self, db: Database, session_id: str, codec: Codec) -> CachedSession:
        """Return the session, loaded from the file if it is not cached."""
        session = self._sessions.pop(session_id, None)
        if session is not None and session.generation != self.generation:
            session = self._check(db, session_id, session)
        if session is None:
            session = self._load(db, session_id, codec)
            self._size += session.size
        session.generation = self.generation
        self._sessions[session_id] = session
        return session

    def add_size(self, by: int) -> None:
        """Count `by` more bytes for a session; drop the least recently used ones over the limit."""
        self._size += by
        while self._size > self._limit and len(self._sessions) > 1:
            _, oldest = self._sessions.popitem(last=False)
            self._size -= oldest.size

    def invalidate(self) -> None:
        """Have all sessions checked again: another process may have added or deleted traces."""
        self.generation += 1

    def _check(self, db: Database, session_id: str, session: CachedSession) -> CachedSession | None:
        """Return the session if its latest stored trace is also the latest one in the file.

        All earlier ones are then in the file too: numbers ascend, and a session is only ever
        deleted as a whole. Otherwise returns None.
        """
        there = (one.trace_id for one in reversed(session.known) if one.number.value is not None)
        latest = next(db.select(_LATEST, {"session_id": session_id}), None)
        if latest == ((known,) if (known := next(there, None)) is not None else None):
            return session
        self._size -= session.size
        return None

    def clear(self) -> None:
        """Drop all sessions: some of their rows may not be in the file."""
        self._sessions.clear()
        self._size = 0

    def _load(self, db: Database, session_id: str, codec: Codec) -> CachedSession:
        session = CachedSession(Lineage(MAX_CACHED_TRACES, MAX_CACHED_BYTES), [], deque())
        newest = list(db.select(_NEWEST, {"session_id": session_id, "most": MAX_LOADED_TRACES}))
        newest.reverse()
        if len(newest) == MAX_LOADED_TRACES:
            _add_older(db, session, session_id, newest[0][0])
        decoder = RowDecoder(db, codec)
        for number, trace_id, depth, ends, base, content in newest:
            decoder.add_row(number, base, content)
            known, digests = KnownTrace(RowNumber(number), trace_id, depth), unpack_digests(ends)
            if not _add_whole(session, known, decoder, digests):
                session.add_digests(known, digests)
        return session


def _add_older(db: Database, session: CachedSession, session_id: str, before: int) -> None:
    rows = db.select(_OLDER, {"session_id": session_id, "before": before})
    for number, trace_id, depth, ends in rows:
        session.add_digests(KnownTrace(RowNumber(number), trace_id, depth), unpack_digests(ends))


def _add_whole(
    session: CachedSession, known: KnownTrace, decoder: RowDecoder, digests: SequenceDigests
) -> bool:
    """Return False if a damaged file does not yield the trace; it then must not be a base."""
    try:
        material = decoder.material(known.number.value or 0)
    except UnreadableRow as error:
        log.error("%s; later turns of its session are not encoded against it", error)
        known.depth = MAX_DEPTH
        return False
    known.request, known.retry_of = material.request, material.retry_of
    known.receipt = material.receipt
    sequences = zip(material.sequences, digests, strict=False)
    session.add(known, [one if length else b"" for one, (length, _) in sequences])
    return True
