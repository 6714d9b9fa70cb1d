"""What is kept and for how long; deletion goes in slices, so that traces of calls get between."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable

import msgspec

from gateway import GatewayError, Storage
from gateway_plugins.trace_capture.store import delete_sessions

log = logging.getLogger("gateway.trace_capture")

EVERY = 60.0
"""Seconds between two looks."""

SLICE = 20
"""Sessions in one transaction."""

LOOSE_SLICE = 500
"""Traces without a session in one transaction."""

PAGES = 1_000
"""Pages given back to the file system at a time."""


class Keep(msgspec.Struct, frozen=True):
    """The limits; None is none. `days` counts from a session's last call."""

    days: float | None = None
    sessions: int | None = None
    bytes: int | None = None


class Retention:
    """Deletes what is past the limits, and gives the space of all that was deleted back.

    `forget` is called in the writer's thread, within the transaction that deletes.
    """

    def __init__(self, storage: Storage, keep: Keep, forget: Callable[[], None]) -> None:
        self._storage = storage
        self._keep = keep
        self._forget = forget
        self._wanted = asyncio.Event()

    def look(self) -> None:
        """Soon, rather than at the next turn."""
        self._wanted.set()

    def change(self, keep: Keep) -> None:
        """Keep by these limits, from now on."""
        self._keep = keep
        self.look()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.clean(time.time())
            except (sqlite3.Error, GatewayError) as error:
                log.warning("old traces could not be deleted now: %s", error)
            try:
                async with asyncio.timeout(EVERY):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()

    async def clean(self, now: float) -> None:
        """Delete what is past the limits at `now`, Unix seconds."""
        while await self._storage.write(lambda db: self._delete_some(db, now)):
            pass
        while await self._storage.give_back(PAGES):
            pass

    def _delete_some(self, db: sqlite3.Connection, now: float) -> bool:
        """One slice; whether there may be more."""
        if self._keep.days is not None:
            before = now - self._keep.days * 86_400
            if self._delete_loose(db, before) or self._delete(db, "last_at < ?", before, SLICE):
                return True
        if self._keep.sessions is None and self._keep.bytes is None:
            return False
        [(count,)] = db.execute("SELECT count(*) FROM sessions")
        if self._keep.sessions is not None and count > self._keep.sessions:
            return self._delete(db, "?", True, min(count - self._keep.sessions, SLICE))
        if self._keep.bytes is not None and _used(db) > self._keep.bytes:
            some = max(1, min(count // 10, SLICE))  # not more than need be of a few large ones
            return self._delete(db, "?", True, some) or self._delete_loose(db, now)
        return False

    def _delete(self, db: sqlite3.Connection, where: str, value: float, most: int) -> bool:
        """The sessions that were idle for longest."""
        query = f"SELECT session_id FROM sessions WHERE {where} ORDER BY last_at LIMIT ?"
        found = [session_id for (session_id,) in db.execute(query, (value, most))]
        if found:
            delete_sessions(db, found)
            self._forget()
        return bool(found)

    def _delete_loose(self, db: sqlite3.Connection, before: float) -> bool:
        """Traces that belong to no session."""
        gone = db.execute(
            "DELETE FROM traces WHERE number IN (SELECT number FROM traces"
            " WHERE session_id IS NULL AND timestamp < ? ORDER BY number LIMIT ?)",
            (before, LOOSE_SLICE),
        )
        return gone.rowcount > 0


def _used(db: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    [(pages,)] = db.execute("PRAGMA page_count")
    [(free,)] = db.execute("PRAGMA freelist_count")
    [(size,)] = db.execute("PRAGMA page_size")
    used: int = (pages - free) * size
    return used
