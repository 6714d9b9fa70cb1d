"""Spending in the database: each call adds to it, and additions of other processes are read.

All processes that use one file add to the same rows. Reads run in the thread that writes: the
amounts that this process has committed are then known exactly, and the rest of a row belongs to
other processes.
"""

import sqlite3
import time
from collections.abc import Sequence

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from gateway_plugins.limits.book import Spending, periods_of

MIGRATIONS = Migrations("limits")

KEPT_DAYS = 90

SLICE = 1_000
"""Rows deleted in one transaction."""

_TABLES = (
    """
    CREATE TABLE limits_spent (
        period INTEGER NOT NULL,
        key TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        cost INTEGER NOT NULL,
        changed INTEGER NOT NULL,
        PRIMARY KEY (period, key)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE limits_changes (count INTEGER NOT NULL)",
    "INSERT INTO limits_changes VALUES (0)",
)

_CHANGE = "UPDATE limits_changes SET count = count + 1"

_ADD = """
    INSERT INTO limits_spent (key, period, tokens, cost, changed)
    VALUES (?, ?, ?, ?, (SELECT count FROM limits_changes))
    ON CONFLICT (period, key) DO UPDATE SET
        tokens = tokens + excluded.tokens,
        cost = cost + excluded.cost,
        changed = excluded.changed
"""

_NEWS = """
    SELECT key, period, tokens, cost FROM limits_spent WHERE period IN (?, ?) AND changed > ?
"""

_DELETE = """
    DELETE FROM limits_spent WHERE (period, key) IN
        (SELECT period, key FROM limits_spent WHERE period < ? LIMIT ?)
"""


@MIGRATIONS()
def create_tables(db: Database) -> None:
    """Create the tables of tokens and cost (in billionths) by period and key.

    Changes are numbered by `limits_changes`; `changed` is the number of the latest change to a row.
    """
    for statement in _TABLES:
        db.conn.execute(statement)


Totals = dict[tuple[str, int], tuple[int, int]]
"""Tokens and cost by key and period."""


class Ledger:
    """Storage sink for what calls spend; each item is the Spendings of one call.

    All methods run in the writer's thread.
    """

    def __init__(self) -> None:
        self._own: Totals = {}
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._known = 0
        self._periods = (0, 0)

    def prepare(self, db: sqlite3.Connection, item: Sequence[Spending]) -> Sequence[Spending]:
        return item

    def write(self, db: sqlite3.Connection, rows: Sequence[Sequence[Spending]]) -> None:
        sums: Totals = {}
        _add(sums, rows)
        db.execute(_CHANGE)
        db.executemany(_ADD, [(*whose, *spent) for whose, spent in sums.items()])

    def written(self, rows: Sequence[Sequence[Spending]]) -> None:
        _add(self._own, rows)

    def lost(self, item: Sequence[Spending], error: Exception) -> None:
        """Do nothing: the storage logs the loss, and the call still counts in this process."""

    def news(self, db: sqlite3.Connection) -> list[Spending]:
        """Return what others spent this day and month, for the keys that may have changed."""
        periods = periods_of(time.time())
        if periods != self._periods:
            self._own = {whose: own for whose, own in self._own.items() if whose[1] in periods}
            self._periods = periods
        [(version,)] = db.execute("PRAGMA data_version")
        seen = (db, version)  # a new connection counts from the start again
        if seen == self._seen:
            return []
        if self._seen is None or self._seen[0] is not db:
            self._known = 0  # the new connection may be to another file
        [(count,)] = db.execute("SELECT count FROM limits_changes")
        found = [
            self._of_others(*row) for row in db.execute(_NEWS, (*periods, self._known)).fetchall()
        ]
        self._seen, self._known = seen, count
        return found

    def _of_others(self, key: str, period: int, tokens: int, cost: int) -> Spending:
        own_tokens, own_cost = self._own.get((key, period), (0, 0))
        return Spending(key, period, max(tokens - own_tokens, 0), max(cost - own_cost, 0))


def delete_old(db: sqlite3.Connection) -> bool:
    """Delete up to SLICE rows older than KEPT_DAYS; return whether there may be more."""
    day, _ = periods_of(time.time() - KEPT_DAYS * 86_400)
    return db.execute(_DELETE, (day, SLICE)).rowcount > 0


def _add(sums: Totals, rows: Sequence[Sequence[Spending]]) -> None:
    for call in rows:
        for key, period, tokens, cost in call:
            before = sums.get((key, period), (0, 0))
            sums[key, period] = before[0] + tokens, before[1] + cost
