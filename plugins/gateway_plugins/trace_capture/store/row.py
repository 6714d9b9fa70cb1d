"""The format of a trace in the file: its row, and the content of its blobs.

`number` orders the traces of a file. A row may have a `base`, an earlier row of its session: the
request is then delta-encoded against the base's request, and the prompts against the sequence
(prompt and completion) of one of the base's choices. `depth` is the length of the chain of bases.
"""

import struct

import msgspec

from gateway_plugins.trace_capture.codec import TextDelta
from gateway_plugins.trace_capture.recording.facts import Facts
from gateway_plugins.trace_capture.recording.head import Head
from gateway_plugins.trace_capture.sequences.lineage import DIGEST_SIZE

SequenceDigests = list[tuple[int, bytes]]
"""For each choice, the length of its sequence in bytes, and its digest."""

NO_TEXTS = msgspec.Raw(msgspec.msgpack.encode(None))
"""Of a choice whose tokens have no texts."""

_DIGEST = struct.Struct(f"<q{DIGEST_SIZE}s")


class PromptDelta(msgspec.Struct, array_like=True, frozen=True):
    """Prompt token ids, int32: `common` bytes of the base's choice `choice`, then `rest`."""

    common: int
    choice: int
    rest: bytes


class ChoiceTokens(msgspec.Struct, array_like=True, frozen=True):
    """The numbers of one choice; `prompt` is an index into the row's prompts."""

    index: int
    prompt: int
    ids: bytes
    logprobs: bytes


class Content(msgspec.Struct, array_like=True, frozen=True):
    """The content of a row: one blob, compressed as a whole.

    `tokens`, `texts` and `extra` have one item per choice, in the order of the response's choices.
    Each of `texts` is a list of strings or nil. If `head.whole`, the trace is in `skeleton`.
    """

    head: Head
    request: TextDelta = TextDelta(0, 0, b"")
    prompts: list[PromptDelta] = []
    tokens: list[ChoiceTokens] = []
    skeleton: bytes = b""
    texts: list[msgspec.Raw] = []
    extra: list[bytes] = []


class RowNumber(msgspec.Struct, eq=False):
    """The number of a trace in the file; None until its transaction has begun."""

    value: int | None = None


class Row(msgspec.Struct, eq=False, kw_only=True):
    """One trace, ready to be inserted. `principal` is the caller's, `started` the record's.

    `parent_session` is the session that started the trace's own, `facts` is what is counted and
    searched of it.
    """

    trace_id: str
    session_id: str | None
    timestamp: float
    complete: bool
    model: str
    base: RowNumber | None = None
    depth: int = 0
    digests: bytes
    content: bytes
    number: RowNumber
    principal: str | None = None
    parent_session: str | None = None
    started: float
    facts: Facts

    def values(self) -> tuple[object, ...]:
        """Return the values in the order of INSERT.

        They are of the types that the driver takes as they are: it asks each value of another
        built-in type, such as bytes and None, whether it has a method to convert itself.
        """
        return (
            self.number.value,
            self.trace_id,
            self.session_id,
            self.timestamp,
            1 if self.complete else 0,
            self.model,
            (self.base.value or 0) if self.base is not None else 0,
            self.depth,
            bytearray(self.digests),
            bytearray(self.content),
            self.principal,
            *self.facts,
        )


INSERT = """
INSERT INTO traces
    (number, trace_id, session_id, timestamp, complete, model, base, depth, ends, content, owner,
    worker, version, harness, sampled, trainable, reasons)
SELECT column1, column2, column3, column4, column5, column6, nullif(column7, 0), column8, column9,
    column10,
    CASE WHEN column3 IS NULL THEN column11
    ELSE (SELECT owner FROM sessions WHERE session_id = column3) END,
    column12, column13, column14, column15, column16, column17
FROM (
"""
"""The statement before the rows' VALUES and a closing parenthesis.

A trace takes its owner from its session, so sessions must be inserted before their traces.
"""


def pack_digests(digests: SequenceDigests) -> bytes:
    if len(digests) == 1:
        return _DIGEST.pack(*digests[0])
    return b"".join([_DIGEST.pack(length, digest) for length, digest in digests])


def unpack_digests(packed: bytes) -> SequenceDigests:
    return list(_DIGEST.iter_unpack(packed))
