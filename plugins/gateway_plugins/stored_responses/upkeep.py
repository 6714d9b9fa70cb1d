"""Deletes what was not used for long, and the oldest of keys that have too much."""

import asyncio
import logging
import time

from gateway import Database, GatewayError, Storage
from gateway_plugins.stored_responses import rows
from gateway_plugins.stored_responses.options import Options

log = logging.getLogger("gateway.stored_responses")

INTERVAL = 60.0
"""Seconds between two cleanings."""

SLICE = 200
"""Rows that are deleted in one transaction."""


class Upkeep:
    def __init__(self, storage: Storage, options: Options) -> None:
        self.options = options
        self._storage = storage

    async def run(self) -> None:
        """Clean every INTERVAL seconds, until cancelled."""
        while True:
            try:
                await self.clean(time.time())
            except GatewayError as error:
                log.warning("old responses could not be deleted now: %s", error)
            await asyncio.sleep(INTERVAL)

    async def clean(self, now: float) -> None:
        """Delete what is over the limits at `now` (Unix seconds)."""
        while await self._storage.write(lambda db: self._delete_some(db, now)):
            pass

    def _delete_some(self, db: Database, now: float) -> bool:
        options = self.options
        found = rows.expired(db, now, options.keep, SLICE)
        if not found:
            found = rows.surplus(db, "response", options.max_responses, now, SLICE)
        if not found:
            found = rows.surplus(db, "conversation", options.max_conversations, now, SLICE)
        rows.delete(db, found)
        return bool(found)
