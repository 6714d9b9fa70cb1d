"""What is known of the models in caches of the hub, in memory and in the database."""

import time
from collections.abc import Iterable

import msgspec

from gateway import Database, Storage
from gateway_plugins.runtime.loading.snapshots import Place
from gateway_plugins.runtime.memory.known import Storing

_READ = "SELECT folder, revision, repository, size, fetched, whole, used_at FROM runtime_disk"
_WRITE = """
INSERT INTO runtime_disk (folder, revision, repository, size, fetched, whole, used_at)
VALUES (:folder, :revision, :repository, :size, :fetched, :whole, :used_at)
ON CONFLICT (folder, revision) DO UPDATE SET repository = excluded.repository,
    size = excluded.size, fetched = excluded.fetched, whole = excluded.whole,
    used_at = excluded.used_at
"""
_DELETE = "DELETE FROM runtime_disk WHERE folder = :folder"


class Record(msgspec.Struct):
    """A revision of a model in a folder, as `runtime_disk` has it."""

    folder: str
    revision: str
    repository: str
    size: int = 0
    fetched: bool = False
    whole: bool = False
    used_at: float = 0.0


class Records:
    """What changes is known at once; what the methods return stores it, and is to be awaited."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[tuple[str, str], Record] = {}

    async def read(self) -> None:
        """Read what earlier runs have stored. Raises StorageError."""
        found = await self._storage.read(_all)
        self._known = {(one.folder, one.revision): one for one in found}

    @property
    def all(self) -> Iterable[Record]:
        return list(self._known.values())

    def of(self, place: Place) -> Record | None:
        return self._known.get(_key(place))

    def is_broken(self, place: Place) -> bool:
        """Whether a download of this gateway was cut off."""
        found = self.of(place)
        return found is not None and not found.whole

    def begins(self, place: Place, size: int, *, fetched: bool) -> Storing:
        """A download begins; `fetched`: nothing else is in the folder. Raises StorageError."""
        found = self._of(place)
        found.size, found.whole, found.fetched = size, False, fetched
        found.used_at = time.time()
        return self._store(found)

    def is_there(self, place: Place, size: int) -> Storing:
        """All files are there. Raises StorageError."""
        found = self._of(place)
        found.size, found.whole = size, True
        return self._store(found)

    def used(self, place: Place) -> Storing:
        """An engine has loaded the model, or has just ended. Raises StorageError."""
        is_new = self.of(place) is None
        found = self._of(place)
        found.whole = found.whole or is_new
        found.used_at = time.time()
        return self._store(found)

    async def removing(self, folder: str) -> None:
        """A folder is about to be removed: nothing in it is whole. Raises StorageError."""
        records = [one for one in self.all if one.folder == folder]
        for record in records:
            record.whole = False
        for record in records:
            await self._store(record)

    def removed(self, folder: str) -> Storing:
        """Nothing is left of a folder. Raises StorageError."""
        for key in [key for key in self._known if key[0] == folder]:
            del self._known[key]
        return self._delete(folder)

    def _of(self, place: Place) -> Record:
        key = _key(place)
        return self._known.setdefault(key, Record(*key, place.repository))

    async def _store(self, record: Record) -> None:
        row = msgspec.structs.asdict(record)
        await self._storage.write(lambda db: db.execute(_WRITE, row))

    async def _delete(self, folder: str) -> None:
        await self._storage.write(lambda db: db.execute(_DELETE, {"folder": folder}))


def _key(place: Place) -> tuple[str, str]:
    return str(place.here), place.revision


def _all(db: Database) -> list[Record]:
    return [
        Record(folder, revision, repository, size, bool(fetched), bool(whole), used_at)
        for folder, revision, repository, size, fetched, whole, used_at in db.select(_READ)
    ]
