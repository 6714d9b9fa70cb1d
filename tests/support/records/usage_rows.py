"""Calls that are counted, their rows in the ledger of usage, and what must hold of one."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

OUTCOMES = ("success", "error", "abort")

MAY_END: Mapping[str, Sequence[str]] = {
    "whole": ("success",),
    "error": ("error",),
    "broken": ("error",),
    "left": OUTCOMES,
    "killed": OUTCOMES,
}
"""What the ledger may say of a call: what becomes of it when its caller has gone nobody sees."""


def may_end(verdict: str, served: bytes) -> Sequence[str]:
    """What the ledger may say of a call to which an engine has sent `served` under status 200.

    An error and an abort can look like any other end. A caller that left, or was cut off, may have
    all that was sampled.
    """
    if b'data: {"error":' in served and verdict == "whole":
        return ("error",)
    if b'"finish_reason":"abort"' in served and verdict == "whole":
        return ("abort",)
    return OUTCOMES if verdict == "broken" and b'"finish_reason":"' in served else MAY_END[verdict]


class Tokens(msgspec.Struct, frozen=True):
    """Of one answer. `told`: the engine says so at its end; else they are counted by their ids.

    `prompt` is None where there was nothing to count.
    """

    prompt: int | None
    completion: int
    cached: int = 0
    told: bool = False


def head_of(
    call_id: str, key: str, body: bytes, headers: Mapping[str, str], *, path: str, method: str
) -> bytes:
    """Of a request that can be found again by its id."""
    lines = {
        "host": "gateway.test",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "authorization": f"Bearer key-{key}",
        "x-request-id": call_id,
        **headers,
    }
    written = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{written}\r\n".encode()


class Row(NamedTuple):
    """A row of the ledger, its id in hexadecimal."""

    trace_id: str
    key: str
    model: str
    worker: str
    source: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    counted: int

    @property
    def recovered(self) -> bool:
        """Whether a journal had it, where it has no trace: what is refused has nothing counted."""
        return self.outcome == "error" and bool(self.counted)


def rows_after(db: sqlite3.Connection, number: int) -> dict[int, Row]:
    """Those with a higher number, by their numbers."""
    query = """
        SELECT number, lower(hex(id)), key, model, worker, source, outcome, prompt_tokens,
            completion_tokens, cached_tokens, counted FROM usage_calls WHERE number > ?
    """
    found = {}
    for one, trace_id, key, model, worker, source, outcome, *tokens in db.execute(query, (number,)):
        found[one] = Row(trace_id, key, model, worker, source, OUTCOMES[outcome], *tokens)
    return found


def unlike(row: Row, sent: Tokens) -> Iterator[str]:
    """What was heard to the end is known."""
    if (row.prompt_tokens, row.completion_tokens) != (sent.prompt, sent.completion):
        yield f"the engine says {sent}"
    if row.cached_tokens != sent.cached or row.counted == sent.told:
        yield f"the engine says {sent}"


def out_of_bounds(row: Row, sent: Tokens, pieces: int) -> Iterator[str]:
    """The gateway has heard no more than the worker said, and no less than the caller was told.

    `pieces` are the events with text that the caller had, each of one token or more.
    """
    if row.completion_tokens > sent.completion:
        yield f"the engine had not said so much: {sent}"
    if row.completion_tokens < pieces:
        yield f"its caller had {pieces} pieces"
    if row.completion_tokens and row.prompt_tokens != sent.prompt:
        yield f"the engine had another prompt: {sent}"
