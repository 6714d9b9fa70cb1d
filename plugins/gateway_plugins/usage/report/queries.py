"""Reads sums of usage; all functions take a Database and block."""

from collections.abc import Iterator, Sequence

import msgspec

from gateway import Database
from gateway_plugins.usage.ledger.schema import COUNTS, WAY

Values = dict[str, str | int]
"""A row of sums by column name: the grouping columns, then the COUNTS and total_tokens."""

COLUMNS = ("day", *WAY)


class Wanted(msgspec.Struct, frozen=True):
    """A filter for sums; None: no limit.

    Sums of one key only, and of the days from `since` to `until`, both included, as in 20261121.
    """

    key: str | None = None
    since: int | None = None
    until: int | None = None


def sums(db: Database, by: Sequence[str], wanted: Wanted) -> Iterator[Values]:
    """Yield a row for each combination of values of the COLUMNS `by`, sorted by these columns.

    The sums cover all time, unless `by` or `wanted` has days: then only the days that are kept.
    """
    has_days = "day" in by or wanted.since is not None or wanted.until is not None
    given = [
        condition
        for condition, value in (
            ("key = :key", wanted.key),
            ("day >= :since", wanted.since),
            ("day <= :until", wanted.until),
        )
        if value is not None
    ]
    where = " AND ".join(given) or "1 = 1"
    columns, stored = ", ".join(by), "day > 0 AND " if has_days else ""
    # The views would scan all rows to find those of one key.
    query = _SUMMED.format(
        columns=columns,
        stored=f"SELECT {columns}, {_COUNTS} FROM usage_sums WHERE {stored}{where}",
        others=f"SELECT {columns}, {_COUNTS} FROM usage_not_summed WHERE {where}",
    )
    for row in db.select(query, msgspec.structs.asdict(wanted)):
        yield values(by, row)


_COUNTS = ", ".join(COUNTS)
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
_SUMMED = f"""
SELECT {{columns}}, {_SUMS}
FROM ({{stored}} UNION ALL {{others}}) GROUP BY {{columns}} ORDER BY {{columns}}
"""


class Place(msgspec.Struct, frozen=True, tag="row"):
    """The last row of a page. `bucket` is the day that is listed, None for the totals."""

    bucket: int | None
    key: str = ""
    model: str = ""
    worker: str = ""
    source: str = ""


def page(db: Database, after: Place, limit: int) -> list[Values]:
    """Return at most `limit` rows after `after`, sorted by WAY, of the totals or of one day."""
    columns = ", ".join(WAY)
    where = f"({columns}) > (:key, :model, :worker, :source)"
    if after.bucket is not None:
        where = f"day = :bucket AND {where}"
    # Limit the stored rows to the size of the page: the page cannot have more of them.
    stored = (
        f"SELECT {columns}, {_SUMS} FROM usage_sums WHERE {where}"
        f" GROUP BY {columns} ORDER BY {columns} LIMIT :rows"
    )
    query = _SUMMED.format(
        columns=columns,
        stored=f"SELECT * FROM ({stored})",
        others=f"SELECT {columns}, {_COUNTS} FROM usage_not_summed WHERE {where}",
    )
    rows = db.select(f"{query} LIMIT :rows", {**msgspec.structs.asdict(after), "rows": limit})
    return [values(WAY, row) for row in rows]


def models(db: Database, most: int) -> list[str]:
    """Return at most `most` names of models that were counted."""
    query = (
        "SELECT model FROM usage_sums UNION SELECT model FROM usage_not_summed"
        " EXCEPT SELECT '' LIMIT :rows"
    )
    return [name for (name,) in db.select(query, {"rows": most})]


def values(by: Sequence[str], row: Sequence[str | int]) -> Values:
    """Return a row of the columns `by` and the COUNTS as Values."""
    found = dict(zip((*by, *COUNTS), row, strict=True))
    found["total_tokens"] = int(found["prompt_tokens"]) + int(found["completion_tokens"])
    return found
