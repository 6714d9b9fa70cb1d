"""How much is queued and running, read from time to time for the metrics."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import product

import msgspec

from gateway import Database, Sample, Storage, StorageError, Workers
from gateway_plugins.batch.queue.reading import counts, oldest

LOOK = 1.0
"""Seconds between two looks at the queue."""

MAX_MODELS = 64
"""Maximum number of models that are kept apart."""

OTHER = "other"


class Seen(msgspec.Struct, frozen=True):
    """What is in the queue: items by model and state, and when the oldest was submitted."""

    items: Counter[tuple[str, str]]
    oldest: float | None = None


class Depth:
    """The latest look at the queue of all processes, which share the database."""

    def __init__(self, storage: Storage, workers: Workers) -> None:
        self._storage = storage
        self._workers = workers
        self._seen = Seen(Counter())

    async def run(self) -> None:
        """Look until cancelled; while the file cannot be read, the latest look remains."""
        while True:
            with contextlib.suppress(StorageError):  # the storage reports it
                self._seen = await self._storage.read(_see)
            await asyncio.sleep(LOOK)

    def samples(self) -> Iterator[Sample]:
        """Yield what waits and runs. A model is named if a worker serves it."""
        seen, known = self._seen, self._served()
        names = product((*known, OTHER), ("queued", "running"))
        items = Counter(dict.fromkeys(names, 0))
        for (model, state), count in seen.items.items():
            items[model if model in known else OTHER, state] += count
        for (model, state), count in items.items():
            labels = {"model": model, "state": state}
            yield _gauge("gateway_batch_depth", count, "Items in the queue.", labels)
        age = 0.0 if seen.oldest is None else max(time.time() - seen.oldest, 0.0)
        help_ = "Seconds that the oldest item has waited of those that may run."
        yield _gauge("gateway_batch_oldest_wait_seconds", age, help_, {})
        help_ = "Items that wait or run."
        yield _gauge("llm_queue_depth", items.total(), help_, {"type": "batch"})

    def _served(self) -> Collection[str]:
        """Return the models that workers have or may get: no names that callers made up."""
        served = (one.models or () for one in self._workers.all)
        return frozenset(sorted(self._workers.loadable.union(*served))[:MAX_MODELS])


def _see(db: Database) -> Seen:
    items: Counter[tuple[str, str]] = Counter()
    for one in counts(db):
        items[one.model, "queued"] = one.queued
        items[one.model, "running"] = one.running
    return Seen(items, oldest(db))


def _gauge(name: str, value: float, help_: str, labels: dict[str, str]) -> Sample:
    return Sample(name, "gauge", value, help_, labels, "max")
