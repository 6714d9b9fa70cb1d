"""The runs that calls belong to, beside the ledger: a row for each call that has one."""

from collections.abc import Sequence

from gateway import Database
from gateway_plugins.usage.ledger.row import MAX_NAME

RunRow = tuple[bytes, str]
"""The id of a call, as the ledger has it, and the name of its run."""

ROW_SIZE = 200
"""Approximate bytes that a row takes in memory."""

_INSERT = "INSERT INTO usage_runs (id, run)"

_OLD = "DELETE FROM usage_runs WHERE id IN (SELECT id FROM usage_runs WHERE id < :id LIMIT :rows)"


def run_row(call_id: bytes, run: str) -> RunRow:
    return call_id, run[:MAX_NAME]


def delete_some(db: Database, before: bytes, rows: int) -> int:
    """Delete so many rows of calls with smaller ids; return how many there were."""
    return db.execute(_OLD, {"id": before, "rows": rows})


class Runs:
    """A gateway Sink of RunRows; what is lost of them is lost with the row of the ledger."""

    def prepare(self, db: Database, item: RunRow) -> RunRow:
        return item

    def write(self, db: Database, rows: Sequence[RunRow]) -> None:
        # The row may exist: a commit that seemed to fail may have succeeded.
        db.insert(_INSERT, rows, "ON CONFLICT (id) DO NOTHING")

    def written(self, rows: Sequence[RunRow]) -> None: ...

    def lost(self, item: RunRow, error: BaseException) -> None: ...
