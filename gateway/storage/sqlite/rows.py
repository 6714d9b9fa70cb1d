"""Inserts many rows with few statements."""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

MOST = 256
"""Maximum number of rows of one statement."""

VARIABLES = 32_766
"""Maximum number of variables of one statement: SQLite's default since 3.32."""


def insert_rows(
    db: sqlite3.Connection, before: str, rows: Sequence[Sequence[object]], after: str = ""
) -> int:
    """Run `before`, VALUES of the rows, `after`; return the number of rows changed.

    Like `executemany`, but with many rows per statement. Each statement releases and reacquires the
    GIL, which costs more than a row if the event loop contends for it. All rows have the same
    length.
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
    """Number of rows for the next statement: a power of two.

    So there are few distinct statements, and the connection caches each.
    """
    most = min(rows, MOST, VARIABLES // columns)
    return 1 << (most.bit_length() - 1)


@lru_cache(maxsize=256)
def _statement(before: str, after: str, rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"{before} VALUES {','.join([row] * rows)} {after}"
