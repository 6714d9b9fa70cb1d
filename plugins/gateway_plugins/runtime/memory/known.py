"""What is known of each model from its loads so far, in memory and in the database."""

import time
from collections.abc import Iterable, Mapping

import msgspec

from gateway import Database, Storage
from gateway_plugins.runtime.options import Model, Restarts

LATEST_WEIGHT = 0.3
"""Weight of the latest load in the average of a model's load times."""

BY_CHANCE = frozenset(
    (
        *("runtime_crashed", "runtime_timeout", "runtime_not_ready"),
        *("runtime_start_failed", "runtime_start_exception"),
    )
)
"""Reasons for which the next load may go well."""

_READ = "SELECT model, load_seconds, failures, reason, text, until FROM runtime_models"
_WRITE = """
INSERT INTO runtime_models (model, load_seconds, failures, reason, text, until)
VALUES (:model, :load_seconds, :failures, :reason, :text, :until)
ON CONFLICT (model) DO UPDATE SET load_seconds = excluded.load_seconds,
    failures = excluded.failures, reason = excluded.reason, text = excluded.text,
    until = excluded.until
"""
_NEXT = """
INSERT INTO runtime_saved (runtime, generation) VALUES (:runtime, 1)
ON CONFLICT (runtime) DO UPDATE SET generation = runtime_saved.generation + 1
"""
_GENERATION = "SELECT generation FROM runtime_saved WHERE runtime = :runtime"
_SAVED = "SELECT content FROM runtime_saved WHERE runtime = :runtime"
_SAVE = """
INSERT INTO runtime_saved (runtime, content) VALUES (:runtime, :content)
ON CONFLICT (runtime) DO UPDATE SET content = excluded.content
"""


class Known(msgspec.Struct):
    """One model: the average seconds of a load, and its latest failures in a row.

    No start before `until` (Unix seconds). `reason` and `text` are of the latest failure, None
    after a load that went well.
    """

    model: str
    load_seconds: float | None = None
    failures: int = 0
    reason: str | None = None
    text: str | None = None
    until: float = 0.0


class Memory:
    """The models of the configuration. Methods that change something return what is to be stored.

    Nothing is lost but the latest change if the database cannot be written.
    """

    def __init__(self, storage: Storage, models: Iterable[Model], restarts: Restarts) -> None:
        self._storage = storage
        self._restarts = restarts
        self._usual = {model.name: model.load_time for model in models}
        self._known = {name: Known(name) for name in self._usual}

    async def read(self) -> None:
        """Read what earlier runs have learnt. Raises StorageError."""
        for known in await self._storage.read(_all):
            if known.model in self._known:
                self._known[known.model] = known

    def of(self, model: str) -> Known:
        return self._known[model]

    def load_seconds(self, model: str) -> float:
        """Return how long a load takes, measured if there was one."""
        measured = self._known[model].load_seconds
        return self._usual[model] if measured is None else measured

    async def loaded(self, model: str, seconds: float) -> None:
        """The model was loaded in so many seconds. Raises StorageError."""
        known = self._known[model]
        before = known.load_seconds
        known.load_seconds = (
            seconds if before is None else before + LATEST_WEIGHT * (seconds - before)
        )
        known.failures, known.reason, known.text, known.until = 0, None, None, 0.0
        await self._store(known)

    async def failed(self, model: str, reason: str, text: str, kept: float | None) -> None:
        """A load, or the engine, has failed. Raises StorageError.

        The model is tried again after a pause that doubles; after too many failures, or at once if
        the next load would fail alike, after `kept` seconds.
        """
        known = self._known[model]
        known.failures += 1
        known.reason, known.text = reason, text
        known.until = time.time() + self._pause(known, kept)
        await self._store(known)

    def _pause(self, known: Known, kept: float | None) -> float:
        restarts = self._restarts
        pause = min(restarts.first * 2.0 ** min(known.failures - 1, 30), restarts.longest)
        if known.failures < restarts.most and known.reason in BY_CHANCE:
            return pause
        return restarts.longest if kept is None else max(pause, kept)

    async def forgive(self, model: str) -> None:
        """Forget the failures of a model, so that it may be loaded at once. Raises StorageError."""
        known = self._known[model]
        known.failures, known.reason, known.text, known.until = 0, None, None, 0.0
        await self._store(known)

    async def _store(self, known: Known) -> None:
        row = msgspec.structs.asdict(known)
        await self._storage.write(lambda db: db.execute(_WRITE, row))

    async def next_generation(self, runtime: str) -> int:
        """Return a number that no start at this runtime has had. Raises StorageError."""
        return await self._storage.write(lambda db: _next_generation(db, runtime))

    async def saved(self, runtime: str) -> str | None:
        """Return what the policy of the runtime has saved. Raises StorageError."""
        return await self._storage.read(lambda db: _saved(db, runtime))

    async def save(self, runtime: str, content: str) -> None:
        """Store what the policy of the runtime saves. Raises StorageError."""
        named = {"runtime": runtime, "content": content}
        await self._storage.write(lambda db: db.execute(_SAVE, named))


def _all(db: Database) -> list[Known]:
    return [Known(*row) for row in db.select(_READ)]


def _next_generation(db: Database, runtime: str) -> int:
    named: Mapping[str, str] = {"runtime": runtime}
    db.execute(_NEXT, named)
    [(generation,)] = db.select(_GENERATION, named)
    return int(generation)


def _saved(db: Database, runtime: str) -> str | None:
    for (content,) in db.select(_SAVED, {"runtime": runtime}):
        return content if content is None else str(content)
    return None
