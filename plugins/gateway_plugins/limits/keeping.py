"""Reads the spending of all processes from the database while the gateway runs."""

import asyncio
import logging
import time
from collections.abc import Callable

from gateway import GatewayError, Storage
from gateway_plugins.limits.book import Book
from gateway_plugins.limits.ledger import Ledger, delete_old

log = logging.getLogger("gateway.limits")

READ_INTERVAL = 1.0
"""Seconds between two reads of what other processes have spent."""

CLEAN_INTERVAL = 3_600.0
"""Seconds between two deletions of old rows."""


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
