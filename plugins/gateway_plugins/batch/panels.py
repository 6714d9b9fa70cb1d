"""What people see of the queue: what waits by model, the items, and the batches."""

import time
from collections.abc import Mapping, Sequence

from gateway import Cell, Database, Panel, PanelAction, PanelRows, Storage
from gateway_plugins.batch.batches import rows as batch_rows
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import CANCELED, ERROR, QUEUED, RUNNING, STATES, Item

CANCEL = PanelAction(
    label="Cancel",
    effect="The item is canceled; if it runs, its call is ended.",
    path="/admin/batch/items/{id}/cancel",
    column="status",
    values=("queued", "running"),
)
REQUEUE = PanelAction(
    label="Requeue",
    effect="The item waits again, as if it had not been tried, with a new deadline.",
    path="/admin/batch/items/{id}/requeue",
    column="type",
    values=("completion", "chat_completion", "job", "other"),
)
REQUEUE_ALL = PanelAction(
    label="Requeue all failed",
    effect="All failed items of all keys wait again; lines of batches do not.",
    path="/admin/batch/requeue",
)
CANCEL_BATCH = PanelAction(
    label="Cancel",
    effect="The lines that have not ended are canceled; the files of results are written.",
    path="/admin/batch/batches/{id}/cancel",
    column="status",
    values=("validating", "in_progress"),
)


MAX_WHY = 300
"""Characters of the reason of a failure."""


class BatchPanels:
    """The panels, read from the database."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def all(self) -> Sequence[Panel]:
        """Return the panels."""
        return [
            Panel(name="depth", title="Queue by model and key", scope="monitor", read=self._depth),
            Panel(name="queue", title="Items", scope="monitor", read=self._queue, actions=[CANCEL]),
            Panel(
                name="failed",
                title="Failed items",
                scope="monitor",
                read=self._failed,
                actions=[REQUEUE_ALL, REQUEUE],
            ),
            Panel(
                name="batches",
                title="Batches",
                scope="monitor",
                read=self._batches,
                actions=[CANCEL_BATCH],
            ),
        ]

    async def _depth(self, limit: int) -> PanelRows:
        found = await self._storage.read(reading.depths)
        now = time.time()
        return PanelRows([_waiting(one, now) for one in found[:limit]], len(found))

    async def _queue(self, limit: int) -> PanelRows:
        return await self._storage.read(lambda db: _queue(db, limit))

    async def _failed(self, limit: int) -> PanelRows:
        return await self._storage.read(lambda db: _failed(db, limit))

    async def _batches(self, limit: int) -> PanelRows:
        found = await self._storage.read(lambda db: batch_rows.newest(db, None, None, limit))
        return PanelRows([_batch(one) for one in found])


def _waiting(one: reading.Depth, now: float) -> Mapping[str, Cell]:
    return {
        "model": one.model,
        "key": one.owner,
        "queued": one.queued,
        "running": one.running,
        "oldest_waits_s": None if one.oldest is None else max(now - one.oldest, 0.0),
        "highest_priority": one.priority,
    }


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


def _failed(db: Database, limit: int) -> PanelRows:
    """Return the newest items that have failed or were canceled."""
    states = (ERROR, CANCELED)
    found = [one for at in states for one in reading.items_of(db, reading.Wanted(state=at), limit)]
    found.sort(key=lambda item: item.number, reverse=True)
    return PanelRows([_ended(item) for item in found[:limit]])


def _ended(item: Item) -> Mapping[str, Cell]:
    why = item.last_error
    return {
        "id": item.id,
        "model": item.model,
        "status": STATES[item.state],
        "why": None if why is None else f"{why.code}: {why.message}"[:MAX_WHY],
        "type": item.kind,
        "attempts": item.attempts,
        "ended_at": item.finished,
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
        "done_share": (batch.completed + batch.failed) / batch.total if batch.total else None,
        "created_at": batch.created,
        "owner": batch.owner,
    }
