"""Many rows by few statements."""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

MOST = 256
"""Rows of one statement."""

VARIABLES = 32_766
"""Of one statement: SQLite's default since 3.32."""


def insert_rows(
    db: sqlite3.Connection, before: str, rows: Sequence[Sequence[object]], after: str = ""
) -> int:
    """Run `before`, VALUES of the rows, `after`; gives how many rows were changed.

    Like `executemany`, but a statement has as many rows as it can. With each one Python's lock is
    let go and taken back, which costs more than the row where the event loop wants it, too. Rows
    are all of one length.
    """
    changed = start = 0
    while start < len(rows):
        count = _at_once(len(rows) - start, len(rows[start]))
        some = rows[start : start + count]
        statement = _statement(before, after, count, len(some[0]))
        changed += db.execute(statement, list(chain.from_iterable(some))).rowcount
        start += count
    return changed


def _at_once(rows: int, columns: int) -> int:
    """A power of two, so that there are few statements, and each is known to the connection."""
    most = min(rows, MOST, VARIABLES // columns)
    return 1 << (most.bit_length() - 1)


@lru_cache(maxsize=256)
def _statement(before: str, after: str, rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"{before} VALUES {','.join([row] * rows)} {after}"
