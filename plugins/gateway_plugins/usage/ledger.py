"""A call becomes a row of the ledger, in the transaction that stores its trace."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway import Call, Outcome, Usage, insert_rows

SUCCESS, ERROR, ABORT = 0, 1, 2
"""Of a row's `outcome`."""

LONGEST = 256
"""Characters of a name."""

ROW_SIZE = 800
"""About the bytes that a row holds in memory."""


class Row(NamedTuple):
    """What the ledger has of one call. `id` is its trace's, `time` when it came, in Unix seconds.

    `outcome` is one of the numbers above; `counted` is 1 where no engine told the tokens.
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


_NOTHING = Usage()


def row_of(call: Call, outcome: Outcome, key: str, model: str) -> Row:
    """The row of a call that is over; tokens that nobody can tell are none."""
    used = outcome.usage or _NOTHING
    worker = call.worker
    return Row(
        bytes.fromhex(call.trace_id),
        call.created,
        key,
        model,
        "" if worker is None else worker.id[:LONGEST],
        call.source,
        how_it_went(outcome.caller_gone, outcome.complete, outcome.status),
        used.prompt_tokens,
        used.completion_tokens,
        used.cached_tokens,
        used.reasoning_tokens,
        int(used.counted),
    )


def how_it_went(caller_gone: bool, complete: bool, status: int) -> int:
    """A caller that left is an abort, whatever else went wrong; an error is not a success."""
    if caller_gone:
        return ABORT
    return SUCCESS if complete and status < 400 else ERROR


_INSERT = f"INSERT INTO usage_calls ({','.join(Row._fields)})"


def insert(db: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """How many were not there yet; those that are stay as they are."""
    return insert_rows(db, _INSERT, rows, "ON CONFLICT (id) DO NOTHING")


class Ledger:
    """A gateway Sink of Rows. `committed` and `gone` count the calls that were stored, or lost.

    Of both `ended` is told the ids, where there is one; it must not mind in which thread.
    """

    def __init__(self) -> None:
        self.committed = 0
        self.gone = 0
        self.ended: Callable[[bytes], None] | None = None

    def prepare(self, db: sqlite3.Connection, item: Row) -> Row:
        return item

    def write(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        # A row may be there: a commit that was taken for failed may have been none.
        insert(db, rows)

    def written(self, rows: Sequence[Row]) -> None:
        self.committed += len(rows)
        if self.ended is not None:
            for row in rows:
                self.ended(row.id)

    def lost(self, item: Row, error: BaseException) -> None:
        self.gone += 1
        if self.ended is not None:
            self.ended(item.id)
