"""Tracks the weights of each worker, and quarantines those that differ from the fleet's."""

import asyncio
import logging
from contextlib import suppress

from gateway import Database, Migration, Migrations, Storage, StorageError, Worker, Workers
from gateway_plugins.weights.gate import Gate
from gateway_plugins.weights.sync.engine_commands import Engine, StepFailed, Unreachable

log = logging.getLogger("gateway.weight_sync")

NAME = "weight_sync"
QUERY = "SELECT version FROM weight_sync"

VERSION_TIMEOUT = 5.0
"""Timeout in seconds of a request for a worker's version."""


# The version of the fleet's last update: at most one row.
_TABLE = "CREATE TABLE weight_sync (version TEXT NOT NULL)"

MIGRATIONS = Migrations(NAME, (Migration("create_table", _TABLE),))


class Versions:
    """`current` is the fleet's version, None before the first update; `epochs` by worker.

    A worker is quarantined while it is not known to have the current version: it failed in an
    update, was down, is new, or reports another version. A version that a `doubtful` worker reports
    is not trusted, because its weights may be half replaced: it needs a later update, or a new
    engine.
    """

    def __init__(self, registry: Workers, gate: Gate) -> None:
        self.interval = 5.0
        self.current: str | None = None
        self.epoch = 0
        self.epochs: dict[str, int] = {}
        self._registry = registry
        self._gate = gate
        self._doubtful: set[Worker] = set()
        self._known: set[Worker] = set(registry.all)
        self._wake = asyncio.Event()

    @property
    def doubtful(self) -> frozenset[Worker]:
        return frozenset(self._doubtful)

    def quarantine(self, worker: Worker, reason: str, *, doubtful: bool = False) -> None:
        if doubtful:
            self._doubtful.add(worker)
        there = worker.conditions.get(NAME)
        if there is None or there.reason != reason:
            log.warning("worker %s is quarantined: %s", worker.id, reason)
            worker.mark(NAME, "quarantined", reason)

    def trust(self, worker: Worker) -> None:
        """End the worker's quarantine, because it has the current weights."""
        self._doubtful.discard(worker)
        if NAME in worker.conditions:
            log.warning("worker %s has the fleet's weights, its quarantine ends", worker.id)
            worker.clear(NAME)

    def took(self, worker: Worker, version: str) -> None:
        """Record that an update gave the worker these weights, which are now the fleet's."""
        self.current = worker.weight_version = version
        self.epochs[worker.id] = self.epoch
        self.trust(worker)

    async def load(self, storage: Storage) -> None:
        """Read the version from before the restart; each worker has to confirm it first."""
        try:
            rows = await storage.read(lambda db: list(db.select(QUERY)))
        except StorageError as error:
            log.error("the fleet's weight version cannot be read, any is taken for it: %s", error)
            return
        self._known = set() if rows else set(self._registry.all)
        self.current = rows[0][0] if rows else None
        self.changed()

    async def save(self, storage: Storage) -> None:
        version = self.current

        def write(db: Database) -> None:
            db.execute("DELETE FROM weight_sync")
            db.execute("INSERT INTO weight_sync VALUES (:version)", {"version": version})

        try:
            await storage.write(write)
        except StorageError as error:
            log.error("the fleet's weight version %s is not stored: %s", version, error)

    def changed(self) -> None:
        """Quarantine workers that are new or down: they may come back with any weights."""
        workers = self._registry.all
        for worker in workers:
            unsure = worker not in self._known or _is_down(worker)
            if self.current is not None and unsure and NAME not in worker.conditions:
                self.quarantine(worker, "it has to say first which weights it has")
        self._known = set(workers)
        self._doubtful &= self._known
        self._wake.set()

    async def follow(self) -> None:
        """Check all workers every `interval` seconds, and whenever a worker changes."""
        while True:
            self._wake.clear()
            await self.check_all()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.interval)

    async def check_all(self) -> None:
        await asyncio.gather(*map(self._check, self._registry.all))

    async def _check(self, worker: Worker) -> None:
        if self._gate.closed:
            return
        engine = Engine(worker, VERSION_TIMEOUT)
        try:
            version = await engine.version()
            paused = NAME in worker.conditions and await engine.is_paused()
        except StepFailed as error:
            self._note_failure(worker, error)
            return
        if not self._gate.closed and worker in self._registry.all:
            self._note_version(worker, version, paused=paused)

    def _note_version(self, worker: Worker, version: str, *, paused: bool) -> None:
        worker.weight_version = version
        if self.current is not None and version != self.current:
            self.quarantine(worker, f"it has the weights {version}, the fleet {self.current}")
        elif worker not in self._doubtful and not paused:
            self.trust(worker)

    def _note_failure(self, worker: Worker, error: StepFailed) -> None:
        if isinstance(error, Unreachable):
            self._doubtful.discard(worker)
        if NAME in worker.conditions and not isinstance(error, Unreachable):
            self.quarantine(worker, f"it does not say which weights it has: {error}")


def _is_down(worker: Worker) -> bool:
    return any(one.state == "down" and one.blocks for one in worker.conditions.values())
