"""Which processes run items, and which of those have ended.

A process that runs items has a row in `batch_holders`, and holds an exclusive `flock` on a file
beside the database, which ends with the process however it ends. Its items are queued again as soon
as another process gets that lock, at the latest when a gateway starts. A process that is stopped
keeps its lock: if the `beat` in its row has not changed for the lease, its items are taken over,
too. The time is measured by who looks, with a clock that nobody sets (`time.monotonic`), and only
while the looker itself runs: neither a jump of the wall clock nor a pause of all processes at once
ends a lease. A process that others took for ended registers anew. Its number is by chance, so that
there never is another process with it.
"""

import contextlib
import secrets
from pathlib import Path

import msgspec

from gateway import Database, StorageUnavailable
from gateway_plugins.batch.locks import hold, is_free, release
from gateway_plugins.batch.queue.changes import requeue_of, requeue_orphans
from gateway_plugins.batch.queue.items import ItemError

LEFT = ItemError("runner_lost", "the process that ran it has ended")

LOOKED = 1 / 4
"""Share of the lease that may lie between two looks: of a longer time no more counts."""

_KNOWN = "SELECT 1 FROM batch_holders WHERE number = :number"
_NEW = "INSERT INTO batch_holders (number) VALUES (:number)"
_BEAT = "UPDATE batch_holders SET beat = beat + 1 WHERE number = :number"
_DELETE = "DELETE FROM batch_holders WHERE number = :number"


class Holder:
    """This process's row, and its lock. `number` is that of the row, 0 if there is none yet.

    The methods but `close` run in a transaction. If the transaction fails, the row is missing, and
    the next `ensure` adds another.
    """

    def __init__(self, database: Path | None) -> None:
        self.number = 0
        self._database = database
        self._lock: Lock | None = None

    def is_known(self, db: Database) -> bool:
        """Whether this process's row is there."""
        return bool(list(db.select(_KNOWN, {"number": self.number})))

    def ensure(self, db: Database) -> None:
        """Add this process's row unless it is there.

        Raises StorageError, also if the lock cannot be created.
        """
        if self.is_known(db):
            return
        self.close()
        self.number = number = secrets.randbits(62)
        self._lock = None if self._database is None else Lock(lock_of(self._database, number))
        db.execute(_NEW, {"number": number})

    def beat(self, db: Database) -> bool:
        """Say that this process is alive; False if others have taken it for ended.

        It is then registered anew, and may not end what it ran before. Raises StorageError.
        """
        is_known = db.execute(_BEAT, {"number": self.number}) == 1
        self.ensure(db)
        return is_known

    def end(self, db: Database) -> None:
        """Remove this process's row; its items must have ended or been queued again."""
        db.execute(_DELETE, {"number": self.number})

    def close(self) -> None:
        """Release the lock, and remove its file."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class Lock:
    """An exclusive lock on a new file. Raises StorageUnavailable if there can be none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = hold(path)
        except OSError as error:
            raise StorageUnavailable(f"the lock {path} cannot be created: {error}") from error

    def release(self) -> None:
        release(self.path, self.fd)


class Beat(msgspec.Struct):
    """The beat of a holder, and the seconds for which it was seen unchanged."""

    value: int
    unchanged: float = 0.0


class Others:
    """Finds processes that have ended, and queues their items again."""

    def __init__(self, database: Path | None, lease: float) -> None:
        self._database = database
        self._lease = lease
        self._beats: dict[int, Beat] = {}
        self._looked: float | None = None

    def take_over(self, db: Database, own: int, now: float) -> int:
        """Queue the items of ended processes again, some at a time; return how many.

        `own` is this process's number, `now` is `time.monotonic()`. Raises StorageError.
        """
        passed = 0.0 if self._looked is None else min(now - self._looked, self._lease * LOOKED)
        self._looked = now
        query = "SELECT number, beat FROM batch_holders WHERE number != :own"
        rows = list(db.select(query, {"own": own}))
        self._forget({number for number, _ in rows})
        taken = sum(
            self._take(db, number) for number, beat in rows if self._is_over(number, beat, passed)
        )
        return taken + len(requeue_orphans(db, LEFT))

    def _forget(self, present: set[int]) -> None:
        for number in self._beats.keys() - present:
            del self._beats[number]

    def _is_over(self, number: int, beat: int, passed: float) -> bool:
        if self._database is not None and is_free(lock_of(self._database, number)):
            return True
        seen = self._beats.get(number)
        if seen is None or seen.value != beat:
            self._beats[number] = Beat(beat)
            return False
        seen.unchanged += passed
        return seen.unchanged >= self._lease

    def _take(self, db: Database, number: int) -> int:
        taken = len(requeue_of(db, number, LEFT))
        if not taken:
            db.execute(_DELETE, {"number": number})
            if self._database is not None:
                _unlink(lock_of(self._database, number))
        return taken


def lock_of(database: Path, number: int) -> Path:
    """Return the lock file of a holder."""
    return database.with_name(f"{database.name}-batch-{number:016x}")


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
