"""Adds each ledger row to the sums exactly once: the mark moves in the same transaction."""

import time

from gateway import Database
from gateway_plugins.usage.ledger.schema import COUNTS, LAST, WAY

BATCH_ROWS = 5_000
"""Rows added in one transaction; transactions of calls run in between."""

DAY = 86_400


def day_of(seconds: float) -> int:
    """Return the UTC day of a Unix time, as a number like 20261121."""
    return int(time.strftime("%Y%m%d", time.gmtime(int(seconds / DAY) * DAY)))


def addition(rows: str) -> str:
    """Return the SQL that adds `rows` to the sums: a SELECT of a day, WAY, COUNTS and LAST."""
    columns = ", ".join(("day", *WAY, *COUNTS, *LAST))
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTS)
    return f"INSERT INTO usage_sums ({columns}) {rows} ON CONFLICT DO UPDATE SET {added}, {_LATER}"


# Assignments see the row as it was before.
_LATER = """
last_time = max(last_time, excluded.last_time),
last_outcome = iif(excluded.last_time > last_time, excluded.last_outcome, last_outcome)
"""


LATEST = "max(last_time) AS last_time, last_outcome"
"""Columns of a group of rows. Beside one max(), SQLite takes plain columns from its row."""

_BY = ", ".join(("day", *WAY))
_ADD = addition(
    f"SELECT {_BY}, {', '.join(f'sum({name})' for name in COUNTS)}, {LATEST}"
    f" FROM usage_not_summed WHERE number <= :last GROUP BY {_BY}"
)
_LAST = """
SELECT max(number), count(*) FROM (SELECT number FROM usage_not_summed ORDER BY number LIMIT :rows)
"""
_MARK = "UPDATE usage_marks SET value = :last WHERE name = 'summed'"


def sum_some(db: Database) -> bool:
    """Add the next rows in the caller's transaction; return whether there may be more."""
    [(last, count)] = db.select(_LAST, {"rows": BATCH_ROWS})
    if count:
        db.execute(_ADD, {"last": last})
        db.execute(_MARK, {"last": last})
    return bool(count == BATCH_ROWS)
