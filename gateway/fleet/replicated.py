"""Stores the admin interface's changes of workers, and applies them in all processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from gateway.cluster.peers import Peers, Topic
from gateway.fleet.changes import Change
from gateway.fleet.persisted import PersistedWorkers
from gateway.fleet.registry import Workers

CHANGES = Topic("fleet", "changes")
CHANGED = Topic("fleet", "changed")


class AllChanges(msgspec.Struct, frozen=True):
    """All changes by worker id, as one process knows them; the ones with the latest `since` hold.

    `since` is the time of the latest change in nanoseconds of time.monotonic_ns(), a clock that all
    processes of a machine share; 0: no change has been made since the gateway started.
    """

    since: int = 0
    changes: Mapping[str, Change] = {}


class ReplicatedWorkers:
    """Makes changes one at a time across all processes.

    Every message carries all changes, so a process that missed one gets it with the next message,
    or before it makes a change itself.
    """

    def __init__(self, workers: Workers, kept: PersistedWorkers, peers: Peers) -> None:
        self._workers = workers
        self._kept = kept
        self._peers = peers
        self._alone = asyncio.Lock()
        self._since = 0
        peers.handle(CHANGES, self._encode)
        peers.handle(CHANGED, self._apply)

    async def restore(self) -> None:
        """Apply the changes stored in the database, then those of the other processes."""
        self._workers.restore(await self._kept.load())
        await self._catch_up()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Lock out other changes of workers; changes made by other processes are applied first."""
        async with self._alone, self._peers.lock("workers"):
            await self._catch_up()
            yield

    async def change(self, worker_id: str, change: Change) -> None:
        """Store the change, apply it, and send it to the other processes; only inside `changing`.

        A change that cannot be stored is not applied. Raises StorageError,
        and OSError if the TLS files of an added worker cannot be used.
        """
        alter = self._workers.alter(worker_id, change)
        await self._kept.keep(worker_id, change)
        alter()
        self._since = time.monotonic_ns()
        await self._peers.request(CHANGED, await self._encode(b""))

    async def _catch_up(self) -> None:
        for message in await self._peers.request(CHANGES):
            await self._apply(message)

    async def _encode(self, _: bytes) -> bytes:
        return msgspec.msgpack.encode(AllChanges(self._since, self._workers.overlay.changes))

    async def _apply(self, message: bytes) -> bytes:
        agreed = msgspec.msgpack.decode(message, type=AllChanges)
        if agreed.since > self._since:
            self._workers.follow(agreed.changes)
            self._since = agreed.since
        return b""
