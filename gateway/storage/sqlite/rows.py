"""Statements that insert many rows each."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

MAX_ROWS = 256
"""Maximum number of rows of one statement."""

FEW_ROWS = 32
"""Up to here there is a statement for each number of rows; the connection caches all of them."""

MAX_VARIABLES = 32_766
"""Maximum number of variables of one statement: SQLite's default since 3.32."""

Insert = tuple[str, Sequence[object]]
"""A statement and its values."""


def inserts(into: str, rows: Sequence[Sequence[object]], after: str) -> Iterable[Insert]:
    """Return the statements, with their values, that insert all rows, which are of one length.

    Each statement releases and reacquires the GIL, which costs more than a row if the event loop
    contends for it.
    """
    count = len(rows)
    if not 0 < count <= FEW_ROWS:
        return _inserts_of_many(into, rows, after)
    columns = len(rows[0])
    if columns * count > MAX_VARIABLES:
        return _inserts_of_many(into, rows, after)
    values = rows[0] if count == 1 else list(chain.from_iterable(rows))
    return ((_statement(into, after, count, columns), values),)


def _inserts_of_many(into: str, rows: Sequence[Sequence[object]], after: str) -> Iterator[Insert]:
    start, end = 0, len(rows)
    columns = len(rows[0]) if rows else 0
    while start < end:
        count = _at_once(end - start, columns)
        some = rows[start : start + count]
        yield _statement(into, after, count, columns), list(chain.from_iterable(some))
        start += count


def _at_once(rows: int, columns: int) -> int:
    """Number of rows for the next statement: a power of two.

    So there are few distinct statements, and the connection caches each.
    """
    most = min(rows, MAX_ROWS, MAX_VARIABLES // columns)
    return 1 << (most.bit_length() - 1)


@lru_cache(maxsize=256)
def _statement(into: str, after: str, rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"{into} VALUES {','.join([row] * rows)} {after}"
