"""What is known of each model from its loads so far, in memory and in the database."""

import contextlib
import time
from collections.abc import Coroutine, Iterable
from time import monotonic

import msgspec

from gateway import Database, Storage, StorageError
from gateway_plugins.runtime.options import Model, Restarts

Storing = Coroutine[None, None, None]

LATEST_WEIGHT = 0.3
"""Weight of the latest load in the average of a model's load times."""

BY_CHANCE = frozenset(
    (
        *("runtime_crashed", "runtime_timeout", "runtime_not_ready"),
        *("runtime_start_failed", "runtime_start_exception", "download_failed"),
    )
)
"""Reasons for which the next load may go well."""

_READ = "SELECT model, load_seconds, failures, reason, text, until, tried_at FROM runtime_models"
_WRITE = """
INSERT INTO runtime_models (model, load_seconds, failures, reason, text, until, tried_at)
VALUES (:model, :load_seconds, :failures, :reason, :text, :until, :tried_at)
ON CONFLICT (model) DO UPDATE SET load_seconds = excluded.load_seconds,
    failures = excluded.failures, reason = excluded.reason, text = excluded.text,
    until = excluded.until, tried_at = excluded.tried_at
"""
_NEXT = """
INSERT INTO runtime_saved (runtime, generation) VALUES (:runtime, :least)
ON CONFLICT (runtime) DO UPDATE SET generation = max(runtime_saved.generation + 1, :least)
"""
_GENERATION = "SELECT generation FROM runtime_saved WHERE runtime = :runtime"
_GENERATIONS = "SELECT runtime, generation FROM runtime_saved"
_SAVED = "SELECT content FROM runtime_saved WHERE runtime = :runtime"
_SAVE = """
INSERT INTO runtime_saved (runtime, content) VALUES (:runtime, :content)
ON CONFLICT (runtime) DO UPDATE SET content = excluded.content
"""


class Known(msgspec.Struct):
    """One model: the average seconds of a load, and its latest failures in a row.

    No start before `until` (Unix seconds). `reason` and `text` are of the latest failure, None
    after a load that went well; `tried_at` is when what has failed began (Unix seconds).
    """

    model: str
    load_seconds: float | None = None
    failures: int = 0
    reason: str | None = None
    text: str | None = None
    until: float = 0.0
    tried_at: float = 0.0


class Memory:
    """The models of the configuration, and the generations of the runtimes.

    What changes is known at once; what the methods that change something return is to be awaited,
    and stores it.
    Nothing is lost but the latest changes if the database cannot be written. Failures of this
    process end by the monotonic clock, so that none is prolonged when the clock is set.
    """

    def __init__(self, storage: Storage, models: Iterable[Model], restarts: Restarts) -> None:
        self._storage = storage
        self._known: dict[str, Known] = {}
        self._barred: dict[str, float] = {}
        self._loaded_at: dict[str, float] = {}
        self._failed_at: dict[str, float] = {}
        self._started_at: dict[str, float] = {}
        self._generations: dict[str, int] = {}
        self.set_options(models, restarts)

    def set_options(self, models: Iterable[Model], restarts: Restarts) -> None:
        """Replace the options; what is known of models that stay, or come back, is kept."""
        self._restarts = restarts
        self._usual = {model.name: model.load_time for model in models}
        for name in self._usual:
            self._known.setdefault(name, Known(name))

    async def read(self) -> None:
        """Read what earlier runs have learnt. Raises StorageError."""
        self._generations = await self._storage.read(_generations)
        for known in await self._storage.read(_all):
            if known.model in self._known:
                self._known[known.model] = known
                self._failed_at[known.model] = time.time()
                self._barred[known.model] = monotonic() + known.until - time.time()

    def of(self, model: str) -> Known:
        return self._known[model]

    def barred_until(self, model: str) -> float:
        """Return the `time.monotonic()` before which the model may not be started."""
        return self._barred.get(model, 0.0)

    def failed_at(self, model: str) -> float:
        """Return when the latest failure was noted, in Unix seconds."""
        return self._failed_at.get(model, 0.0)

    def seconds_barred(self, model: str) -> float:
        """Return for how long the model may not be started, after a failure."""
        return max(self.barred_until(model) - monotonic(), 0.0)

    def load_seconds(self, model: str) -> float:
        """Return how long a load takes, measured if there was one."""
        measured = self._known[model].load_seconds
        return self._usual.get(model, 0.0) if measured is None else measured

    def starts(self, model: str) -> None:
        """An engine of the model is started now: what fails from here on has its present files."""
        self._started_at[model] = time.time()

    def loaded(self, model: str, seconds: float) -> Storing:
        """The model was loaded in so many seconds. Raises StorageError.

        Its failures count on until the engine has lived for longer than the longest pause: one that
        dies soon after each load is not to be started for ever.
        """
        known = self._known[model]
        before = known.load_seconds
        known.load_seconds = (
            seconds if before is None else before + LATEST_WEIGHT * (seconds - before)
        )
        known.reason, known.text, known.until = None, None, 0.0
        self._barred.pop(model, None)
        self._loaded_at[model] = monotonic()
        return self._store(known)

    def failed(self, model: str, reason: str, text: str, kept: float | None) -> Storing:
        """A load, or the engine, has failed. Raises StorageError.

        The model is tried again after a pause that doubles; after too many failures, or at once if
        the next load would fail alike, after `kept` seconds.
        """
        known = self._known[model]
        loaded_at = self._loaded_at.pop(model, None)
        if loaded_at is not None and monotonic() - loaded_at > self._restarts.longest:
            known.failures = 0
        known.failures += 1
        known.reason, known.text = reason, text
        self._failed_at[model] = time.time()
        known.tried_at = self._started_at.pop(model, time.time())
        pause = self._pause(known, kept)
        known.until, self._barred[model] = time.time() + pause, monotonic() + pause
        return self._store(known)

    def _pause(self, known: Known, kept: float | None) -> float:
        restarts = self._restarts
        pause = min(restarts.first * 2.0 ** min(known.failures - 1, 30), restarts.longest)
        if known.failures < restarts.most and known.reason in BY_CHANCE:
            return pause
        return restarts.longest if kept is None else max(pause, kept)

    def forgive(self, model: str) -> Storing:
        """Forget the failures of a model, so that it may be loaded at once. Raises StorageError."""
        known = self._known[model]
        known.failures, known.reason, known.text, known.until = 0, None, None, 0.0
        self._failed_at.pop(model, None)
        self._barred.pop(model, None)
        return self._store(known)

    async def _store(self, known: Known) -> None:
        row = msgspec.structs.asdict(known)
        await self._storage.write(lambda db: db.execute(_WRITE, row))

    async def next_generation(self, runtime: str) -> int:
        """Return a number that no start at this runtime has had, as far as could be stored."""
        number = self._generations.get(runtime, 0) + 1
        with contextlib.suppress(StorageError):  # the storage reports it
            number = await self._storage.write(lambda db: _next_generation(db, runtime, number))
        self._generations[runtime] = number
        return number

    async def saved(self, runtime: str) -> str | None:
        """Return what the policy of the runtime has saved. Raises StorageError."""
        return await self._storage.read(lambda db: _saved(db, runtime))

    async def save(self, runtime: str, content: str) -> None:
        """Store what the policy of the runtime saves. Raises StorageError."""
        named = {"runtime": runtime, "content": content}
        await self._storage.write(lambda db: db.execute(_SAVE, named))


def _all(db: Database) -> list[Known]:
    return [Known(*row) for row in db.select(_READ)]


def _next_generation(db: Database, runtime: str, least: int) -> int:
    db.execute(_NEXT, {"runtime": runtime, "least": least})
    [(generation,)] = db.select(_GENERATION, {"runtime": runtime})
    return int(generation)


def _generations(db: Database) -> dict[str, int]:
    return {str(runtime): int(number) for runtime, number in db.select(_GENERATIONS)}


def _saved(db: Database, runtime: str) -> str | None:
    for (content,) in db.select(_SAVED, {"runtime": runtime}):
        return content if content is None else str(content)
    return None
