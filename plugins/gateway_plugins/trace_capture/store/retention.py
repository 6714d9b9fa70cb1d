"""Deletes old sessions, in slices, so that traces of calls are stored between them."""

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from gateway import Database, GatewayError, Storage
from gateway_plugins.trace_capture.store.deletions import forget_old
from gateway_plugins.trace_capture.store.queries import delete_sessionless, delete_sessions
from gateway_plugins.trace_capture.training import hours

log = logging.getLogger("gateway.trace_capture")

INTERVAL = 60.0
"""Seconds between two runs of the cleaning."""

SESSION_BATCH = 20
"""Sessions in one transaction."""

TRACE_BATCH = 500
"""Traces without a session in one transaction."""

PAGE_BATCH = 1_000
"""Pages returned to the file system at a time."""


class RetentionLimits(msgspec.Struct, frozen=True):
    """The limits; None means no limit. `days` counts from a session's last call."""

    days: float | None = None
    sessions: int | None = None
    bytes: int | None = None


class Retention:
    """Deletes sessions and traces past the limits, and returns their space to the file system.

    `on_delete` is called in the writer's thread, within the transaction that deletes.
    """

    def __init__(
        self, storage: Storage, limits: RetentionLimits, on_delete: Callable[[], None]
    ) -> None:
        self._storage = storage
        self._limits = limits
        self._on_delete = on_delete
        self._wanted = asyncio.Event()

    def clean_soon(self) -> None:
        """Clean soon, before INTERVAL seconds have passed."""
        self._wanted.set()

    def set_limits(self, limits: RetentionLimits) -> None:
        """Replace the limits, and apply them soon."""
        self._limits = limits
        self.clean_soon()

    async def run(self) -> None:
        """Clean every INTERVAL seconds, and after `clean_soon`, until cancelled."""
        while True:
            try:
                await self.clean(time.time())
            except GatewayError as error:
                log.warning("old traces could not be deleted now: %s", error)
            try:
                async with asyncio.timeout(INTERVAL):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()

    async def clean(self, now: float) -> None:
        """Delete sessions and traces past the limits at `now` (Unix seconds)."""
        await self._storage.write(forget_old)
        await self._storage.write(hours.catch_up)
        await self._storage.write(lambda db: hours.forget_old(db, now))
        while await self._storage.write(lambda db: self._delete_some(db, now)):
            pass
        while await self._storage.vacuum(PAGE_BATCH):
            pass

    def _delete_some(self, db: Database, now: float) -> bool:
        """Delete one slice; return whether there may be more to delete."""
        if self._limits.days is not None:
            before = now - self._limits.days * 86_400
            if self._delete_sessionless(db, before):
                return True
            if self._delete(db, "last_at < :value", before, SESSION_BATCH):
                return True
        if self._limits.sessions is None and self._limits.bytes is None:
            return False
        [(count,)] = db.select("SELECT count(*) FROM sessions")
        if self._limits.sessions is not None and count > self._limits.sessions:
            surplus = count - self._limits.sessions
            return self._delete(db, ":value", True, min(surplus, SESSION_BATCH))
        if self._limits.bytes is not None and db.used_bytes() > self._limits.bytes:
            # At most a tenth: of a few large sessions, a full slice would be too many.
            some = max(1, min(count // 10, SESSION_BATCH))
            return self._delete(db, ":value", True, some) or self._delete_sessionless(db, now)
        return False

    def _delete(self, db: Database, where: str, value: float, limit: int) -> bool:
        """Delete the matching sessions that were idle longest; return whether there were any."""
        query = f"SELECT session_id FROM sessions WHERE {where} ORDER BY last_at LIMIT :limit"
        rows = db.select(query, {"value": value, "limit": limit})
        found = [session_id for (session_id,) in rows]
        if found:
            delete_sessions(db, found)
            self._on_delete()
        return bool(found)

    def _delete_sessionless(self, db: Database, before: float) -> bool:
        """Delete traces without a session; return whether there were any."""
        return delete_sessionless(db, before, TRACE_BATCH) > 0
