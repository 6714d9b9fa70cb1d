"""Rebuilds traces from rows of the file."""

from collections import OrderedDict
from typing import NamedTuple

import msgspec

from gateway import Database, GatewayError, Trace
from gateway_plugins.trace_capture.answers.assembled import Part
from gateway_plugins.trace_capture.codec import Codec
from gateway_plugins.trace_capture.recording.head import Head, Receipt
from gateway_plugins.trace_capture.recording.public_trace import Identity, build
from gateway_plugins.trace_capture.sequences.divergence import divergence
from gateway_plugins.trace_capture.store.row import NO_TEXTS, Content, PromptDelta

MAX_CACHED_BYTES = 64 * 1024 * 1024
"""Bytes of requests and sequences that a RowDecoder caches as bases of later traces."""

COLUMNS = "number, trace_id, session_id, timestamp, complete, model, base, content"

_contents = msgspec.msgpack.Decoder(Content)


class UnreadableRow(GatewayError):
    """A trace in the file cannot be rebuilt; the message names the trace and the reason."""


class StoredRow(NamedTuple):
    """The COLUMNS of a row."""

    number: int
    trace_id: str
    session_id: str | None
    timestamp: float
    complete: int
    model: str
    base: int | None
    content: bytes


class Material(msgspec.Struct, frozen=True):
    """The bytes that later rows encode against: request, distinct prompts, choices' sequences."""

    request: bytes
    prompts: list[bytes]
    sequences: list[bytes]
    retry_of: str | None = None
    receipt: Receipt = "whole"

    @property
    def size(self) -> int:
        return len(self.request) + sum(map(len, self.prompts)) + sum(map(len, self.sequences))


NO_BASE = Material(b"", [], [])


class RowDecoder:
    """Reads traces of one database; for one thread at a time.

    Bases are cached, so that a session read in order decodes each token once. Raises UnreadableRow
    if the file is damaged.
    """

    def __init__(self, db: Database, codec: Codec | None = None) -> None:
        self._db = db
        self._codec = codec or Codec()
        self._cache: OrderedDict[int, Material] = OrderedDict()
        self._rows: dict[int, tuple[int | None, bytes]] = {}
        self._size = 0

    def add_row(self, number: int, base: int | None, content: bytes) -> None:
        """Note what a row has, which would be read once it is wanted."""
        self._rows[number] = base, content

    def trace(self, row: StoredRow) -> Trace:
        try:
            return self._trace(row)
        except (ValueError, TypeError, IndexError, msgspec.MsgspecError) as error:
            raise UnreadableRow(f"the trace {row.trace_id} cannot be read: {error}") from error

    def material(self, number: int) -> Material:
        """Return the material of a row. Raises UnreadableRow, also if there is no such row."""
        try:
            return self._material(number, None)
        except (ValueError, TypeError, IndexError, msgspec.MsgspecError) as error:
            raise UnreadableRow(f"the trace number {number} cannot be read: {error}") from error

    def _trace(self, row: StoredRow, *, alone: bool = False) -> Trace:
        """Rebuild a trace; with `alone`, without its divergence from another trace."""
        content = self._content(row.content)
        if content.head.whole:
            return msgspec.json.decode(content.skeleton, type=Trace)
        material = self._material(row.number, (row.base, content))
        identity = Identity(
            row.trace_id, row.session_id, row.timestamp, row.model, bool(row.complete)
        )
        parts = _parts(content, material.prompts)
        trace = build(identity, content.head, material.request, content.skeleton, parts)
        if content.head.diverged_from is not None and not alone:
            self._add_divergence(trace, content.head)
        return trace

    def _add_divergence(self, trace: Trace, head: Head) -> None:
        query = f"SELECT {COLUMNS} FROM traces WHERE trace_id = :trace_id"
        found = next(self._db.select(query, {"trace_id": head.diverged_from}), None)
        if found is not None:
            other = self._trace(StoredRow(*found), alone=True)
            trace.divergence = divergence(other, head.diverged_choice, trace)

    def _content(self, blob: bytes) -> Content:
        return _contents.decode(self._codec.decompress(blob))

    def _material(self, number: int, known: tuple[int | None, Content] | None) -> Material:
        """Decode a row after its chain of bases; `known`: its base and content, if already read."""
        above: list[tuple[int, Content]] = []
        wanted: int | None = number
        while wanted is not None and wanted not in self._cache:
            base, content = known or self._base_row(wanted)
            above.append((wanted, content))
            if base is not None and base >= wanted:
                raise ValueError("its base is a later trace")
            wanted, known = base, None
        material = self._cache[wanted] if wanted is not None else NO_BASE
        for one, content in reversed(above):
            material = _resolve(content, material)
            self._cache_material(one, material)
        return material

    def _base_row(self, number: int) -> tuple[int | None, Content]:
        row = self._rows.pop(number, None)
        if row is None:
            query = "SELECT base, content FROM traces WHERE number = :number"
            row = next(self._db.select(query, {"number": number}), None)
        if row is None:
            raise ValueError(f"its base, the trace number {number}, is missing")
        return row[0], self._content(row[1])

    def _cache_material(self, number: int, material: Material) -> None:
        self._cache[number] = material
        self._size += material.size
        while self._size > MAX_CACHED_BYTES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._size -= dropped.size


def _resolve(content: Content, base: Material) -> Material:
    prompts = [_prompt(one, base) for one in content.prompts]
    return Material(
        content.request.apply(base.request),
        prompts,
        [prompts[one.prompt] + one.ids for one in content.tokens],
        content.head.retry_of,
        content.head.receipt,
    )


def _prompt(prompt: PromptDelta, base: Material) -> bytes:
    if not prompt.common:
        return prompt.rest
    if len(base.sequences[prompt.choice]) < prompt.common:
        raise ValueError("its base is shorter than what is taken of it")
    return base.sequences[prompt.choice][: prompt.common] + prompt.rest


def _parts(content: Content, prompts: list[bytes]) -> list[Part]:
    return [
        Part(
            index=one.index,
            packed_prompt=prompts[one.prompt],
            packed_ids=one.ids,
            packed_logprobs=one.logprobs,
            packed_tokens=None if content.texts[place] == NO_TEXTS else bytes(content.texts[place]),
            extra=content.extra[place],
        )
        for place, one in enumerate(content.tokens)
    ]
