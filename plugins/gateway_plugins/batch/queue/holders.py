"""Which processes run items, and which of those have ended.

A process that runs items has a row in `batch_holders`, and holds an exclusive `flock` on a file
beside the database, which ends with the process however it ends. Its items are queued again as soon
as another process gets that lock, at the latest when a gateway starts. A process that is stopped
keeps its lock: if the `beat` in its row has not changed for the lease, its items are taken over,
too. The time is measured by the clock of whoever looks (`time.monotonic`), so a jump of the wall
clock ends no lease.
"""

import contextlib
import secrets
from pathlib import Path

import msgspec

from gateway import Database
from gateway_plugins.batch.locks import hold, is_free, release
from gateway_plugins.batch.queue.changes import requeue_of
from gateway_plugins.batch.queue.items import ItemError

LEFT = ItemError("runner_lost", "the process that ran it has ended")


class Beat(msgspec.Struct):
    """A holder's beat, and the monotonic time when it was first seen."""

    value: int
    seen: float


class Holder:
    """This process's row, and its lock."""

    def __init__(self, database: Path | None) -> None:
        self.number = 0
        self._name = secrets.token_hex(8)
        self._database = database
        self._fd: int | None = None

    def begin(self, db: Database) -> None:
        """Add this process's row. Raises OSError if the lock file cannot be created."""
        self._lock()
        db.insert("INSERT INTO batch_holders (name)", [(self._name,)], "ON CONFLICT DO NOTHING")
        named = {"name": self._name}
        [(self.number,)] = db.select("SELECT number FROM batch_holders WHERE name = :name", named)

    def _lock(self) -> None:
        path = lock_of(self._database, self._name)
        if path is not None and self._fd is None:
            self._fd = hold(path)

    def beat(self, db: Database) -> bool:
        """Say that this process is alive; False if others have taken it for ended."""
        statement = "UPDATE batch_holders SET beat = beat + 1 WHERE number = :number"
        return db.execute(statement, {"number": self.number}) == 1

    def assure(self, db: Database) -> None:
        """Register again if others have taken this process for ended."""
        query = "SELECT number FROM batch_holders WHERE number = :number"
        if not list(db.select(query, {"number": self.number})):
            self.begin(db)

    def end(self, db: Database) -> None:
        """Remove this process's row; its items must have ended or been queued again."""
        db.execute("DELETE FROM batch_holders WHERE number = :number", {"number": self.number})

    def close(self) -> None:
        """Release the lock, and remove its file."""
        path = lock_of(self._database, self._name)
        if self._fd is not None and path is not None:
            release(path, self._fd)
            self._fd = None


class Ended:
    """Finds processes that have ended, and queues their items again."""

    def __init__(self, database: Path | None, lease: float) -> None:
        self._database = database
        self._lease = lease
        self._beats: dict[int, Beat] = {}

    def take_over(self, db: Database, own: int, now: float) -> int:
        """Queue the items of ended processes again, some at a time; return how many.

        `own` is this process's number, `now` is `time.monotonic()`.
        """
        query = "SELECT number, name, beat FROM batch_holders WHERE number != :own"
        rows = list(db.select(query, {"own": own}))
        self._forget({number for number, _, _ in rows})
        return sum(
            self._take(db, number, name)
            for number, name, beat in rows
            if self._is_over(number, name, beat, now)
        )

    def _forget(self, present: set[int]) -> None:
        for number in self._beats.keys() - present:
            del self._beats[number]

    def _is_over(self, number: int, name: str, beat: int, now: float) -> bool:
        path = lock_of(self._database, name)
        if path is not None and is_free(path):
            return True
        seen = self._beats.get(number)
        if seen is None or seen.value != beat:
            self._beats[number] = Beat(beat, now)
            return False
        return now - seen.seen >= self._lease

    def _take(self, db: Database, number: int, name: str) -> int:
        taken = len(requeue_of(db, number, LEFT))
        if not taken:
            db.execute("DELETE FROM batch_holders WHERE number = :number", {"number": number})
            path = lock_of(self._database, name)
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
        return taken


def lock_of(database: Path | None, name: str) -> Path | None:
    """Return the lock file of a holder; None if the database is in memory."""
    return None if database is None else database.with_name(f"{database.name}-batch-{name}")
