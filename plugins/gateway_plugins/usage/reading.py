"""Sums as they are asked for; all functions take a connection and block."""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from gateway_plugins.usage.schema import COUNTS, WAY

Values = dict[str, str | int]
"""A row of sums by the names of its columns: what it is for, then the COUNTS and total_tokens."""

COLUMNS = ("day", *WAY)


class Wanted(msgspec.Struct, frozen=True):
    """Which sums: those of a key only, and of days from `since` to `until`, both in (20261121)."""

    key: str | None = None
    since: int | None = None
    until: int | None = None


def sums(db: sqlite3.Connection, by: Sequence[str], wanted: Wanted) -> Iterator[Values]:
    """A row for each of what the COLUMNS `by` tell apart, in their order.

    They are of all time, unless days are told apart or asked for: then of the days that are kept.
    """
    has_days = "day" in by or wanted.since is not None or wanted.until is not None
    asked = (("key =", wanted.key), ("day >=", wanted.since), ("day <=", wanted.until))
    given = [(condition, value) for condition, value in asked if value is not None]
    where = " AND ".join(f"{condition} ?" for condition, _ in given) or "1"
    columns, stored = ", ".join(by), "day > 0 AND " if has_days else ""
    # The views would look at all rows for those of one key.
    query = _SUMMED.format(
        columns=columns,
        stored=f"SELECT {columns}, {_COUNTS} FROM usage_sums WHERE {stored}{where}",
        others=f"SELECT {columns}, {_COUNTS} FROM usage_not_summed WHERE {where}",
    )
    for row in db.execute(query, 2 * [value for _, value in given]):
        yield _values(by, row)


_COUNTS = ", ".join(COUNTS)
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
_SUMMED = f"""
SELECT {{columns}}, {_SUMS}
FROM ({{stored}} UNION ALL {{others}}) GROUP BY {{columns}} ORDER BY {{columns}}
"""


class Place(msgspec.Struct, frozen=True):
    """The row that a page ended with. `bucket` is the day that is listed, None for the totals."""

    bucket: int | None
    key: str = ""
    model: str = ""
    worker: str = ""
    source: str = ""


def page(db: sqlite3.Connection, after: Place, limit: int) -> list[Values]:
    """At most `limit` rows, in the order of their WAY, of the totals or of one day."""
    columns = ", ".join(WAY)
    where = f"({columns}) > (?, ?, ?, ?)"
    given: list[str | int] = [after.key, after.model, after.worker, after.source]
    if after.bucket is not None:
        where, given = f"day = ? AND {where}", [after.bucket, *given]
    # No more than the page can have of what is stored: the rest would be read for nothing.
    stored = (
        f"SELECT {columns}, {_SUMS} FROM usage_sums WHERE {where}"
        f" GROUP BY {columns} ORDER BY {columns} LIMIT ?"
    )
    query = _SUMMED.format(
        columns=columns,
        stored=f"SELECT * FROM ({stored})",
        others=f"SELECT {columns}, {_COUNTS} FROM usage_not_summed WHERE {where}",
    )
    rows = db.execute(f"{query} LIMIT ?", (*given, limit, *given, limit))
    return [_values(WAY, row) for row in rows]


def models(db: sqlite3.Connection, most: int) -> list[str]:
    """Up to so many names of models that were counted."""
    query = (
        "SELECT model FROM usage_sums UNION SELECT model FROM usage_not_summed"
        " EXCEPT SELECT '' LIMIT ?"
    )
    return [name for (name,) in db.execute(query, (most,))]


def _values(by: Sequence[str], row: Sequence[str | int]) -> Values:
    found = dict(zip((*by, *COUNTS), row, strict=True))
    found["total_tokens"] = int(found["prompt_tokens"]) + int(found["completion_tokens"])
    return found
