"""Background work on usage: sums up the rows of calls, and deletes old rows.

Both work in small steps, so that the transactions of calls run in between. Totals are kept for
ever.
"""

import asyncio
import logging
import time
from functools import partial

import msgspec

from gateway import Database, GatewayError, Storage
from gateway_plugins.usage.ledger.runs import delete_some
from gateway_plugins.usage.ledger.schema import COUNTS, LAST, WAY
from gateway_plugins.usage.ledger.sums import DAY, addition, day_of, sum_some

log = logging.getLogger("gateway.usage")

INTERVAL = 60.0
"""Seconds between two turns."""

DELETE_BATCH = 500
"""Rows that are deleted in one transaction."""

FREE_PAGES = 1_000
"""Database pages returned to the file system at a time."""

_MARK = """
INSERT INTO usage_marks (name, value) VALUES (:name, :day)
ON CONFLICT DO UPDATE SET value = max(value, excluded.value)
"""
# Keep the newest row, because new numbers continue from it.
_OLD_CALLS = """
DELETE FROM usage_calls WHERE number IN (
    SELECT number FROM usage_calls
    WHERE id < :id AND number <= (SELECT value FROM usage_marks WHERE name = 'summed')
        AND number < (SELECT max(number) FROM usage_calls)
    ORDER BY id LIMIT :rows)
"""
_OLD_DAYS = """
SELECT day, key, model, worker, source FROM usage_sums WHERE day > 0 AND day < :day
ORDER BY day, key, model, worker, source LIMIT :rows
"""
_SOME_DAYS = f"usage_sums WHERE (day, key, model, worker, source) IN ({_OLD_DAYS})"
_ADD_TO_DAY_0 = addition(f"SELECT 0, {', '.join((*WAY, *COUNTS, *LAST))} FROM {_SOME_DAYS}")


class Keep(msgspec.Struct, frozen=True):
    """Retention in whole days before today; None: for ever."""

    days: int | None
    calls_days: int | None


class Upkeep:
    """Sums up rows, and deletes those older than `keep`, which may be changed."""

    def __init__(self, storage: Storage, keep: Keep) -> None:
        self.keep = keep
        self._storage = storage

    async def run(self) -> None:
        """Take a turn every INTERVAL seconds, until cancelled."""
        while True:
            try:
                await self.run_once(time.time())
            except GatewayError as error:
                log.warning("usage cannot be summed up, nor old usage deleted, now: %s", error)
            await asyncio.sleep(INTERVAL)

    async def run_once(self, now: float) -> None:
        """Do all the work that is due at `now`, in Unix seconds."""
        while await self._storage.write(sum_some):
            pass
        deleted = False
        for name, days in (("calls", self.keep.calls_days), ("days", self.keep.days)):
            if days is not None:
                first = int(now / DAY) - days
                while await self._storage.write(partial(_delete_some, name=name, first=first)):
                    deleted = True
        while deleted and await self._storage.vacuum(FREE_PAGES):
            pass


def _delete_some(db: Database, *, name: str, first: int) -> bool:
    """Delete one batch of what is older than the day `first`, counted from 1970.

    Returns whether there may be more.
    """
    if name == "calls":
        before = call_id_at(first * DAY)
        gone = db.execute(_OLD_CALLS, {"id": before, "rows": DELETE_BATCH})
        delete_some(db, before, DELETE_BATCH)
    else:
        old_days = {"day": day_of(first * DAY), "rows": DELETE_BATCH}
        db.execute(_ADD_TO_DAY_0, old_days)
        gone = db.execute(f"DELETE FROM {_SOME_DAYS}", old_days)
    if gone:
        db.execute(_MARK, {"name": name, "day": day_of(first * DAY)})
    return gone > 0


def call_id_at(seconds: float) -> bytes:
    """Return the 6-byte prefix of the ids of calls of that Unix time.

    The ids of all earlier calls are smaller.
    """
    return max(0, min(int(seconds * 1000), (1 << 48) - 1)).to_bytes(6, "big")
