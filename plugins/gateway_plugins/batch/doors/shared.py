"""The queue as other plugins get it, by the hook `work_queue`."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from gateway import Backlog, Database, NewWork, Principal, Storage, WorkItem
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.options import MAX_PRIORITY, MIN_PRIORITY
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import STATES, Item, NewItem, Owner


class SharedQueue:
    """A gateway WorkQueue. It sees items of all owners: plugins decide for whom they ask."""

    def __init__(self, storage: Storage, engine: Callable[[], Engine]) -> None:
        self._storage = storage
        self._engine = engine

    async def submit(self, principal: Principal | None, items: Sequence[NewWork]) -> None:
        if items:
            engine, now = self._engine(), time.time()
            made = [_made(one, now, engine.options.deadline) for one in items]
            await engine.submit(Owner(principal), made)

    async def find(self, item_id: str) -> WorkItem | None:
        return _seen(await self._engine().find(item_id, None))

    async def find_all(self, item_ids: Collection[str]) -> Mapping[str, WorkItem]:
        found = await self._storage.read(lambda db: reading.items_named(db, item_ids))
        return {item.id: _shown(item) for item in found}

    async def wait(self, item_id: str, seconds: float) -> WorkItem | None:
        return _seen(await self._engine().wait(item_id, None, seconds))

    async def cancel(self, item_id: str) -> bool:
        return await self._engine().cancel(item_id)

    async def answer(self, item_id: str) -> bytes | None:
        return await self._storage.read(lambda db: _answer(db, item_id))

    async def answers(self, item_ids: Collection[str]) -> Mapping[str, bytes]:
        return await self._storage.read(lambda db: _answers(db, item_ids))

    async def backlog(self) -> Mapping[str, Backlog]:
        return await self._storage.read(reading.backlog)

    async def preempt(self, model: str) -> int:
        return await self._engine().preempt(model)


def _answer(db: Database, item_id: str) -> bytes | None:
    item = reading.item_of(db, item_id)
    return reading.answer_of(db, item.number) if item is not None and item.is_over else None


def _answers(db: Database, item_ids: Collection[str]) -> Mapping[str, bytes]:
    over = [item for item in reading.items_named(db, item_ids) if item.is_over]
    answers = {item.id: reading.answer_of(db, item.number) for item in over}
    return {item_id: answer for item_id, answer in answers.items() if answer is not None}


def _made(work: NewWork, now: float, deadline: float) -> NewItem:
    return NewItem(
        id=work.id,
        kind="evaluation" if work.source == "eval" else "other",
        path=work.path,
        model=work.model,
        body=work.body,
        priority=min(max(work.priority, MIN_PRIORITY), MAX_PRIORITY),
        submitted=now,
        deadline=now + (deadline if work.deadline is None else work.deadline),
        traceparent=work.traceparent,
    )


def _seen(item: Item | None) -> WorkItem | None:
    return None if item is None else _shown(item)


def _shown(item: Item) -> WorkItem:
    error = item.last_error
    return WorkItem(
        id=item.id,
        model=item.model,
        state=STATES[item.state],
        submitted=item.submitted,
        started=item.started,
        finished=item.finished,
        expires=item.expires,
        attempts=item.attempts,
        status=item.status,
        error_code=None if error is None else error.code,
        error=None if error is None else error.message,
    )
