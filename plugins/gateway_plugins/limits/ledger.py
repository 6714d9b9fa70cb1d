"""Spending in the database: each call adds to it, and additions of other processes are read.

All processes that use one file add to the same rows. Reads run in the thread that writes: the
amounts that this process has committed are then known exactly, and the rest of a row belongs to
other processes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from gateway import Database, GatewayError, Migration, Migrations, Storage
from gateway_plugins.limits.book import Book, Spending, periods_of

log = logging.getLogger("gateway.limits")

READ_INTERVAL = 1.0
"""Seconds between two reads of what other processes have spent."""

CLEAN_INTERVAL = 3_600.0
"""Seconds between two deletions of old rows."""

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

    All methods run in the writer's thread. `remembers` returns whether this process still has its
    own amounts of a period in memory, see Book.remembers.
    """

    def __init__(self, remembers: Callable[[int], bool]) -> None:
        self._own: Totals = {}
        self._remembers = remembers
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
            own = {one: amounts for one, amounts in self._own.items() if self._remembers(one[1])}
            self._own, self._periods = own, periods
            self._seen = None  # nothing of the other day has been read
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


class Keeper:
    """Keeps the `book` up to date with the database, while `wanted` returns True.

    `unread`: why the database cannot be read; "" if it can be read.
    """

    def __init__(self, book: Book, ledger: Ledger, wanted: Callable[[], bool]) -> None:
        self.unread = ""
        self._book = book
        self._ledger = ledger
        self._wanted = wanted

    async def run(self, storage: Storage) -> None:
        """Read new spending and delete old rows at intervals, until cancelled."""
        cleaned = -CLEAN_INTERVAL
        while True:
            await asyncio.sleep(READ_INTERVAL)
            await self.look(storage)
            if self._wanted() and time.monotonic() - cleaned > CLEAN_INTERVAL:
                await self.clean(storage)
                cleaned = time.monotonic()

    async def look(self, storage: Storage) -> None:
        """Read new spending into the book. A database that cannot be read is only reported."""
        if not self._wanted():
            self.unread = ""
            return
        try:
            news = await storage.write(self._ledger.news)
        except GatewayError as error:
            if not self.unread:
                log.warning("what other processes spend of budgets cannot be read now: %s", error)
            self.unread = f"what other processes spend of budgets cannot be read: {error}"
            return
        self.unread = ""
        self._book.roll_over(time.time())
        self._book.learn(news)

    async def clean(self, storage: Storage) -> None:
        """Delete rows that are too old to be read."""
        try:
            while await storage.write(delete_old):
                pass
        except GatewayError as error:
            log.warning("old spending could not be deleted now: %s", error)
