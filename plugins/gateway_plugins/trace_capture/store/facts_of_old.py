"""Gives the traces that an earlier version stored their worker and weight version.

Searches then find them too. A slice at a time, between the calls; the counts by hour begin with
the version that has them.
"""

import logging

import msgspec

from gateway import Database, Storage, StorageError, Trace
from gateway_plugins.trace_capture.codec import Codec
from gateway_plugins.trace_capture.recording.facts import text_of_version
from gateway_plugins.trace_capture.recording.public_trace import version_of
from gateway_plugins.trace_capture.store.row import Content

log = logging.getLogger("gateway.trace_capture")

BATCH = 50
"""Traces in one transaction."""

_UNKNOWN = """
SELECT number, session_id, content FROM traces WHERE worker IS NULL ORDER BY number LIMIT :limit
"""
_FILL = "UPDATE traces SET worker = :worker, version = :version WHERE number = :number"
_COUNT = """
UPDATE sessions SET sampled = sampled + :sampled, trainable = trainable + :trainable
WHERE session_id = :session_id
"""

_contents = msgspec.msgpack.Decoder(Content)


class _Found(msgspec.Struct):
    """What an old trace tells of itself; nothing if it cannot be read."""

    worker: str = ""
    version: str = ""
    sampled: int = 0
    trainable: int = 0


async def fill_facts(storage: Storage) -> None:
    """Fill in all that is missing; what is left if the database fails is filled after a restart."""
    codec = Codec()
    try:
        while await storage.write(lambda db: _fill_some(db, codec)):
            pass
    except StorageError as error:
        log.warning("searches miss old traces until the next start: %s", error)


def _fill_some(db: Database, codec: Codec) -> bool:
    """Fill one slice; return whether there may be more."""
    rows = list(db.select(_UNKNOWN, {"limit": BATCH}))
    for number, session_id, content in rows:
        found = _read(content, codec)
        values = {"number": number, "worker": found.worker, "version": found.version}
        db.execute(_FILL, values)
        if session_id is not None and found.sampled:
            sums = {"sampled": found.sampled, "trainable": found.trainable}
            db.execute(_COUNT, {**sums, "session_id": session_id})
    return len(rows) == BATCH


def _read(packed: bytes, codec: Codec) -> _Found:
    try:
        content = _contents.decode(codec.decompress(packed))
        head = content.head
        if head.whole:
            return _changed(msgspec.json.decode(content.skeleton, type=Trace))
    except (ValueError, TypeError, msgspec.MsgspecError):
        return _Found()
    counts = [len(one.ids) // 4 for one in content.tokens]
    whole = [not reasons for reasons in head.choice_reasons] or [not head.reasons] * len(counts)
    good = sum(count for count, one in zip(counts, whole, strict=False) if one)
    return _Found(head.worker or "", text_of_version(version_of(head)), sum(counts), good)


def _changed(trace: Trace) -> _Found:
    counts = [(len(one.token_ids), one.verdict == "COMPLETE") for one in trace.choices]
    return _Found(
        trace.worker or "",
        text_of_version(trace.weight_version),
        sum(count for count, _ in counts),
        sum(count for count, whole in counts if whole),
    )
