"""Spending in the database: each call adds to it, and additions of other processes are read.

All processes that use one file add to the same rows. Reads run in the thread that writes: the
amounts that this process has committed are then known exactly, and the rest of a row belongs to
other processes.
"""

import time
from collections.abc import Sequence

from gateway import Database, Migration, Migrations
from gateway_plugins.limits.book import Spending, periods_of

KEPT_DAYS = 90

DELETE_BATCH = 1_000
"""Rows deleted in one transaction."""

_TABLES = """
CREATE TABLE limits_spent (
    period INTEGER NOT NULL,
    key TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    PRIMARY KEY (period, key)
) WITHOUT ROWID;
CREATE TABLE limits_changes (count INTEGER NOT NULL);
INSERT INTO limits_changes VALUES (0)
"""
# Tokens and cost (in billionths) by period and key. Changes are numbered by `limits_changes`;
# `changed` is the number of the latest change to a row.
MIGRATIONS = Migrations("limits", (Migration("create_tables", _TABLES),))

_CHANGE = "UPDATE limits_changes SET count = count + 1"

_CHANGES = "SELECT count FROM limits_changes"

_ADD = "INSERT INTO limits_spent (key, period, tokens, cost, changed)"

_TO_SUM = """
    ON CONFLICT (period, key) DO UPDATE SET
        tokens = tokens + excluded.tokens,
        cost = cost + excluded.cost,
        changed = excluded.changed
"""

_NEWS = """
    SELECT key, period, tokens, cost FROM limits_spent
    WHERE period IN (:day, :month) AND changed > :known
"""

_DELETE = """
    DELETE FROM limits_spent WHERE (period, key) IN
        (SELECT period, key FROM limits_spent WHERE period < :period LIMIT :rows)
"""


Totals = dict[tuple[str, int], tuple[int, int]]
"""Tokens and cost by key and period."""


class Ledger:
    """Storage sink for what calls spend; each item is the Spendings of one call.

    All methods run in the writer's thread.
    """

    def __init__(self) -> None:
        self._own: Totals = {}
        self._seen: tuple[Database, int] | None = None
        self._known = 0
        self._periods = (0, 0)

    def prepare(self, db: Database, item: Sequence[Spending]) -> Sequence[Spending]:
        return item

    def write(self, db: Database, rows: Sequence[Sequence[Spending]]) -> None:
        sums: Totals = {}
        _add(sums, rows)
        db.execute(_CHANGE)
        [(count,)] = db.select(_CHANGES)
        db.insert(_ADD, [(*whose, *spent, count) for whose, spent in sums.items()], _TO_SUM)

    def written(self, rows: Sequence[Sequence[Spending]]) -> None:
        _add(self._own, rows)

    def lost(self, item: Sequence[Spending], error: Exception) -> None:
        """Do nothing: the storage logs the loss, and the call still counts in this process."""

    def news(self, db: Database) -> list[Spending]:
        """Return what others spent this day and month, for the keys that may have changed."""
        periods = periods_of(time.time())
        if periods != self._periods:
            self._own = {whose: own for whose, own in self._own.items() if whose[1] in periods}
            self._periods = periods
        seen = (db, db.version())  # a new connection counts from the start again
        if seen == self._seen:
            return []
        if self._seen is None or self._seen[0] is not db:
            self._known = 0  # the new connection may be to another file
        [(count,)] = db.select(_CHANGES)
        wanted = {"day": periods[0], "month": periods[1], "known": self._known}
        found = [self._of_others(*row) for row in db.select(_NEWS, wanted)]
        self._seen, self._known = seen, count
        return found

    def _of_others(self, key: str, period: int, tokens: int, cost: int) -> Spending:
        own_tokens, own_cost = self._own.get((key, period), (0, 0))
        return Spending(key, period, max(tokens - own_tokens, 0), max(cost - own_cost, 0))


def delete_old(db: Database) -> bool:
    """Delete up to DELETE_BATCH rows older than KEPT_DAYS; return whether there may be more."""
    day, _ = periods_of(time.time() - KEPT_DAYS * 86_400)
    return db.execute(_DELETE, {"period": day, "rows": DELETE_BATCH}) > 0


def _add(sums: Totals, rows: Sequence[Sequence[Spending]]) -> None:
    for call in rows:
        for key, period, tokens, cost in call:
            before = sums.get((key, period), (0, 0))
            sums[key, period] = before[0] + tokens, before[1] + cost
