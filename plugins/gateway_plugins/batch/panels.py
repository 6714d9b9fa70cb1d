"""What people see of the queue: what waits by model, the items, and the batches."""

import time
from collections.abc import Mapping, Sequence

from gateway import Cell, Database, Panel, PanelRows, Storage
from gateway_plugins.batch.batches import rows as batch_rows
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import QUEUED, RUNNING, STATES, Item


class BatchPanels:
    """The panels, read from the database."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def all(self) -> Sequence[Panel]:
        """Return the panels."""
        return [
            Panel(name="depth", title="Queue by model", scope="monitor", read=self._depth),
            Panel(name="queue", title="Items", scope="monitor", read=self._queue),
            Panel(name="batches", title="Batches", scope="monitor", read=self._batches),
        ]

    async def _depth(self, limit: int) -> PanelRows:
        found = await self._storage.read(reading.backlog)
        now = time.time()
        rows = [
            {
                "model": model,
                "queued": one.queued,
                "running": one.running,
                "oldest_waits_s": None if one.oldest is None else max(now - one.oldest, 0.0),
                "highest_priority": one.priority,
            }
            for model, one in list(found.items())[:limit]
        ]
        return PanelRows(rows, len(found))

    async def _queue(self, limit: int) -> PanelRows:
        return await self._storage.read(lambda db: _queue(db, limit))

    async def _batches(self, limit: int) -> PanelRows:
        found = await self._storage.read(lambda db: batch_rows.newest(db, None, None, limit))
        return PanelRows([_batch(one) for one in found])


def _queue(db: Database, limit: int) -> PanelRows:
    """Return what runs, then what waits; `total` counts what waits."""
    running = reading.items_of(db, reading.Wanted(state=RUNNING), limit)
    queued = reading.items_of(db, reading.Wanted(state=QUEUED), limit - len(running))
    total = sum(one.queued for one in reading.counts(db))
    return PanelRows([_item(one) for one in (*running, *queued)], total)


def _item(item: Item) -> Mapping[str, Cell]:
    return {
        "id": item.id,
        "model": item.model,
        "status": STATES[item.state],
        "priority": item.priority,
        "type": item.kind,
        "submitted_at": item.submitted,
        "attempts": item.attempts,
        "owner": item.owner,
    }


def _batch(batch: batch_rows.Batch) -> Mapping[str, Cell]:
    return {
        "id": batch.id,
        "status": batch.status,
        "model": batch.model,
        "completed": batch.completed,
        "failed": batch.failed,
        "total": batch.total,
        "created_at": batch.created,
        "owner": batch.owner,
    }
