"""Turns a call into a row of the ledger, in the transaction that stores its trace."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from gateway import Call, Database, Outcome, Usage

SUCCESS, ERROR, ABORT = 0, 1, 2
"""Values of a row's `outcome`."""

OUTCOMES: Mapping[str, int] = {
    "success": SUCCESS,
    "error": ERROR,
    "aborted": ABORT,
    "caller_gone": ABORT,
}
"""The value for each `Outcome.result`."""

MAX_NAME = 256
"""Maximum characters of a name."""

ROW_SIZE = 800
"""Approximate bytes that a row takes in memory."""


class Row(NamedTuple):
    """The ledger's row of one call.

    `id` is the id of its trace, `time` its arrival in Unix seconds. `outcome` is SUCCESS, ERROR or
    ABORT; `counted` is 1 if the gateway counted the tokens because the engine did not report them,
    `unread` is 1 if a part of its usage could not be read, or contradicts its response. `repeated`
    is 1 if its work runs again in another call, so that it is an attempt and no request. The last
    two are those of `call.distributed_trace`, None if it is part of none.
    """

    id: bytes
    time: float
    key: str
    model: str
    worker: str
    source: str
    outcome: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    counted: int
    unread: int = 0
    repeated: int = 0
    distributed_trace_id: bytes | None = None
    span_id: bytes | None = None


_NO_USAGE = Usage()


def row_of(call: Call, call_id: bytes, outcome: Outcome, key: str, model: str) -> Row:
    """Build the row of a call that is over; token counts that are unknown are 0."""
    used = outcome.usage or _NO_USAGE
    attempts, context = call.attempts, call.distributed_trace
    values = (
        call_id,
        call.created,
        key,
        model,
        attempts[-1].worker.id[:MAX_NAME] if attempts else "",
        call.source,
        OUTCOMES[outcome.result],
        used.prompt_tokens,
        used.completion_tokens,
        used.cached_tokens,
        used.reasoning_tokens,
        1 if used.counted else 0,
        1 if used.unread else 0,
        1 if outcome.repeated else 0,
        None if context is None else bytes.fromhex(context.trace_id),
        None if context is None else bytes.fromhex(context.span_id),
    )
    return tuple.__new__(Row, values)  # as Row(...), without a call of Python


_INSERT = f"INSERT INTO usage_calls ({','.join(Row._fields)})"


def insert(db: Database, rows: Sequence[Row]) -> int:
    """Insert rows, and return how many are new; existing rows stay as they are."""
    return db.insert(_INSERT, rows, "ON CONFLICT (id) DO NOTHING")


class Ledger:
    """A gateway Sink of Rows. `committed` and `gone` count the calls that were stored, or lost.

    `ended`, if set, is called with the ids of such calls, in any thread.
    """

    def __init__(self) -> None:
        self.committed = 0
        self.gone = 0
        self.ended: Callable[[Iterable[bytes]], None] | None = None

    def prepare(self, db: Database, item: Row) -> Row:
        return item

    def write(self, db: Database, rows: Sequence[Row]) -> None:
        # The row may exist: a commit that seemed to fail may have succeeded.
        insert(db, rows)

    def written(self, rows: Sequence[Row]) -> None:
        self.committed += len(rows)
        if self.ended is not None:
            self.ended([row.id for row in rows])

    def lost(self, item: Row, error: BaseException) -> None:
        self.gone += 1
        if self.ended is not None:
            self.ended((item.id,))
