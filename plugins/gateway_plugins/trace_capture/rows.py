"""A trace as it lies in the file: its row, and what its blobs hold.

`number` orders the traces of a file. A row may lean on an earlier row of its session, its `base`:
the request and the prompts are then what they add to the base's request, and to the sequence
(prompt and completion) of one of the base's choices. `depth` is how many bases lie below it.
"""

import struct
from typing import Any

import msgspec

from gateway import Reason
from gateway_plugins.trace_capture.lineage import DIGEST_SIZE
from gateway_plugins.trace_capture.packing import Delta

Ends = list[tuple[int, bytes]]
"""For each choice the length of its sequence in bytes, and its digest."""

_END = struct.Struct(f"<q{DIGEST_SIZE}s")


class Prompt(msgspec.Struct, array_like=True, frozen=True):
    """Prompt token ids, int32: `common` bytes of the base's choice `choice`, then `rest`."""

    common: int
    choice: int
    rest: bytes


class Tokens(msgspec.Struct, array_like=True, frozen=True):
    """The numbers of one choice; `prompt` is an index into the row's prompts."""

    index: int
    prompt: int
    ids: bytes
    logprobs: bytes


class AttemptRow(msgspec.Struct, array_like=True, frozen=True):
    """Times are whole microseconds from the call's start."""

    worker: str
    started: int
    connected: int | None
    first_byte: int | None
    ended: int | None
    status: int | None
    error: str | None


class Head(msgspec.Struct, array_like=True, kw_only=True):
    """All that is short. Fields are only ever added, at the end, with a default.

    `parent` is the trace that the first prompt extends. `left` is the one that it went along with
    further than that, `left_choice` the position of the choice in it: they have `common` tokens in
    common, then the prompt has another one. `times` are queue, connect, TTFT, total, ITL p50 and
    p99 in whole microseconds. `whole`: a hook changed the trace, so the skeleton is all of it as
    JSON. `worker_version` is that of the worker's weights when the attempt that answered began,
    `worker_version_end` when it ended, where that was another one.
    """

    call_id: str = ""
    path: str = ""
    dialect: str | None = None
    streamed: bool = False
    response_id: str = ""
    worker: str | None = None
    principal: str | None = None
    attempts: list[AttemptRow] = []
    injected: dict[str, Any] = {}
    overwritten: dict[str, Any] = {}
    sampling_params: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    engine_version: int | str | None = None
    admin_version: int | None = None
    times: list[int | None] = []
    status: int = 0
    bytes_sent: int = 0
    caller_gone: bool = False
    delivered: bool = False
    error: str | None = None
    reasons: list[Reason] = []
    choice_reasons: list[list[Reason]] = []
    parent: str | None = None
    left: str | None = None
    left_choice: int = 0
    common: int = 0
    retry_of: str | None = None
    metadata: dict[str, Any] = {}
    whole: bool = False
    worker_version: int | str | None = None
    worker_version_end: int | str | None = None


class Content(msgspec.Struct, array_like=True, frozen=True):
    """All that a row holds: one blob, compressed as a whole.

    For each choice, in the order of the answer's, an item of `tokens`, `texts` and `extra`. With
    `head.whole` the trace is in `skeleton`.
    """

    head: Head
    request: Delta = Delta(0, 0, b"")
    prompts: list[Prompt] = []
    tokens: list[Tokens] = []
    skeleton: bytes = b""
    texts: list[list[str] | None] = []
    extra: list[bytes] = []


class Place(msgspec.Struct, eq=False):
    """Where a trace is in the file: its number is known once its transaction has begun."""

    number: int | None = None


class Row(msgspec.Struct, eq=False, kw_only=True):
    """One trace, ready to be inserted. `principal` is who called."""

    trace_id: str
    session_id: str | None
    timestamp: float
    complete: bool
    model: str
    base: Place | None = None
    depth: int = 0
    ends: bytes
    content: bytes
    place: Place
    principal: str | None = None

    def values(self) -> tuple[object, ...]:
        """In the order of INSERT."""
        return (
            self.place.number,
            self.trace_id,
            self.session_id,
            self.timestamp,
            self.complete,
            self.model,
            self.base.number if self.base is not None else None,
            self.depth,
            self.ends,
            self.content,
            self.principal,
        )


INSERT = """
INSERT INTO traces
    (number, trace_id, session_id, timestamp, complete, model, base, depth, ends, content, owner)
SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10,
    CASE WHEN column3 IS NULL THEN column11
    ELSE (SELECT owner FROM sessions WHERE session_id = column3) END
FROM (
"""
"""Before the VALUES of rows and a parenthesis; their sessions, with the owners, come first."""


def pack_ends(ends: Ends) -> bytes:
    return b"".join([_END.pack(length, digest) for length, digest in ends])


def unpack_ends(packed: bytes) -> Ends:
    return list(_END.iter_unpack(packed))
