"""A queue without a gateway: its rows, the processes that run its items, and what must hold."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway_plugins.batch.queue import changes, claiming, reading, submission
from gateway_plugins.batch.queue.holders import Holder, Others
from gateway_plugins.batch.queue.items import COMPLETED, Claimed, Ended, Item, NewItem, Owner
from gateway_plugins.batch.queue.ordering import Order
from gateway_plugins.batch.queue.schema import MIGRATIONS
from gateway_plugins.batch.queue.settling import Settling, Written
from support.records.databases import memory_database

from gateway import Database, Principal

ORDER = Order(age_step=600.0, max_wait=3_600.0, max_pause=60.0)
LEASE = 60.0
NOW = 1_700_000_000.0
KEPT = 1_000.0
PLENTY = submission.Room(10_000_000, 10_000_000)


def owner(name: str) -> Owner:
    return Owner(Principal(name))


class Process:
    """One that runs items. It has died if its lock is free, and is stopped if it does not beat."""

    def __init__(self, locks: Path | None) -> None:
        self.holder = Holder(locks)
        self.others = Others(locks, LEASE)
        self.claiming = claiming.Claiming(ORDER, self.holder)
        self.running: list[Claimed] = []

    def die(self) -> None:
        """Leave everything behind but what the kernel takes."""
        lock = self.holder._lock
        assert lock is not None
        os.close(lock.fd)


class AQueue:
    """`now` is the wall clock. Without `db`, the queue is in memory."""

    def __init__(self, locks: Path | None = None, db: Database | None = None) -> None:
        self.db = memory_database([MIGRATIONS]) if db is None else db
        self.now = NOW
        self.locks = locks
        self.settled: list[Written] = []
        self._settling = Settling(self.settled.extend)
        self._count = 0

    def process(self) -> Process:
        return Process(self.locks)

    def submit(
        self,
        key: str = "ada",
        model: str = "m",
        priority: int = 0,
        items: int = 1,
        room: submission.Room = PLENTY,
        deadline: float = 1e9,
        body: bytes = b"{}",
    ) -> list[str]:
        """Queue items now, in a transaction; return their ids."""
        new = [self._new(model, priority, self.now + deadline, body) for _ in range(items)]
        self.db.execute("BEGIN IMMEDIATE")
        try:
            submission.submit(self.db, owner(key), new, room)
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")
        return [one.id for one in new]

    def submit_now(self, key: str, model: str, body: bytes) -> None:
        """Queue an item within the transaction of the caller."""
        submission.submit(self.db, owner(key), [self._new(model, 0, 1e12, body)], PLENTY)

    def _new(self, model: str, priority: int, deadline: float, body: bytes) -> NewItem:
        self._count += 1
        return NewItem(
            id=f"cmpl-{self._count:024}",
            kind="completion",
            path="/v1/completions",
            model=model,
            body=body,
            priority=priority,
            submitted=self.now,
            deadline=deadline,
        )

    def claim(
        self,
        process: Process,
        room: Mapping[str, int] | int = 1_000,
        most: int = 64,
    ) -> list[Claimed]:
        """Claim items with room by model, or for so many of each model."""
        rooms, others = ({}, room) if isinstance(room, int) else (room, 0)
        claims = process.claiming.claim(self.db, rooms, others, self.now, most)
        process.running += claims.items
        return claims.items

    def settle(
        self,
        process: Process,
        item: Claimed,
        state: int = COMPLETED,
        answer: bytes | None = b'{"choices": []}',
        **more: object,
    ) -> bool:
        """End a call for an item; return whether it was the process's to end."""
        if item in process.running:
            process.running.remove(item)
        end = Ended(item=item, state=state, at=self.now, answer=answer, **more)  # type: ignore[arg-type]
        row = self._settling.prepare(self.db, end)
        self._settling.write(self.db, [row])
        self._settling.written([row])
        return row.taken

    def end(self) -> changes.End:
        return changes.End(self.now, self.now + KEPT)

    def item(self, item_id: str) -> Item:
        found = reading.item_of(self.db, item_id)
        assert found is not None
        return found

    def states(self, ids: Sequence[str]) -> Counter[int]:
        return Counter(self.item(one).state for one in ids)


def check_counts(db: Database) -> None:
    """The lanes count what the rows are, and each row has its lane and its request."""
    counted = {
        lane: (queued, running)
        for lane, queued, running in db.select("SELECT lane, queued, running FROM batch_lanes")
    }
    states = "SELECT lane, sum(state = 0), sum(state = 1) FROM batch_items GROUP BY lane"
    found = {lane: (queued, running) for lane, queued, running in db.select(states)}
    assert found.keys() <= counted.keys(), "each item has a lane"
    assert counted == dict.fromkeys(counted, (0, 0)) | found
    nobody = "(state = 1) != (holder IS NOT NULL)"
    for what in (
        f"batch_items WHERE {nobody}",
        "batch_items WHERE number NOT IN (SELECT number FROM batch_bodies)",
        "batch_bodies WHERE number NOT IN (SELECT number FROM batch_items)",
        "batch_answers WHERE number NOT IN (SELECT number FROM batch_items)",
    ):
        assert list(db.select(f"SELECT * FROM {what}")) == [], what
