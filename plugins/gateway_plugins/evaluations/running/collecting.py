"""The items of an evaluation: into the queue, at most so many at a time, and back as they end."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway import (
    NOT_JSON,
    ConstraintViolated,
    NewWork,
    Principal,
    Storage,
    TooManyRequests,
    WorkItem,
    WorkQueue,
)
from gateway_plugins.evaluations.children.confined import Failed
from gateway_plugins.evaluations.options import Options
from gateway_plugins.evaluations.rows import items
from gateway_plugins.evaluations.rows.items import COMPLETED, FAILED, QUEUED, WAITING, End, Item
from gateway_plugins.evaluations.rows.jobs import Job, Run

WAIT = 1.0
"""Seconds after which all items are looked at, if the oldest has not ended before."""

GATHER = 0.05
"""Seconds in which more items may end, so that they are stored together."""

FULL = 2.0
"""Seconds until the next try if the queue has no room."""

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class _Head(msgspec.Struct):
    messages: Raw | UnsetType = UNSET


class Collecting:
    """The items of one evaluation, whose bodies are in `folder`."""

    def __init__(
        self,
        queue: WorkQueue,
        storage: Storage,
        options: Options,
        job: Job,
        run: Run,
        folder: Path,
    ) -> None:
        self._queue = queue
        self._storage = storage
        self._options = options
        self._job = job
        self._run = run
        self._bodies = folder / "bodies.jsonl"
        self._window = min(run.max_concurrency or options.window, options.window)

    async def step(self) -> bool:
        """Queue what there is room for, and store what has ended; False if all items have.

        Raises Failed, StorageError.
        """
        number, window = self._run.number, self._window
        queued = await self._storage.read(lambda db: items.in_state(db, number, QUEUED, window))
        room = window - len(queued)
        new: list[Item] = []
        if room > 0:
            new = await self._storage.read(lambda db: items.in_state(db, number, WAITING, room))
            if new and not await self._submit(new):
                await asyncio.sleep(FULL)
        if not queued and not new:
            return False
        if queued:
            await self._wait_for(queued[0])
            await self._store(queued)
        return True

    def _id(self, item: Item) -> str:
        return item.id(self._job.id, self._run.place)

    async def _wait_for(self, item: Item) -> None:
        await self._queue.wait(self._id(item), WAIT)
        await asyncio.sleep(GATHER)

    async def _submit(self, new: Sequence[Item]) -> bool:
        """Queue items; False if there is no room for them.

        An item is queued before its row says so, so a gateway that was killed finds it there.
        """
        known = await self._queue.find_all([self._id(item) for item in new])
        bodies = await asyncio.to_thread(self._read, new)
        work = [
            self._work(item, body)
            for item, body in zip(new, bodies, strict=True)
            if self._id(item) not in known
        ]
        try:
            await self._queue.submit(self._principal(), work)
        except TooManyRequests:
            return False
        except ConstraintViolated:  # another gateway has queued them meanwhile
            return False
        places = [item.place for item in new]
        number = self._run.number
        await self._storage.write(lambda db: items.queued(db, number, places))
        return True

    def _read(self, new: Sequence[Item]) -> list[bytes]:
        """Return the bodies of items. Raises Failed."""
        bodies = []
        try:
            with self._bodies.open("rb") as file:
                for item in new:
                    file.seek(item.at)
                    bodies.append(file.read(item.size).rstrip(b"\n"))
        except OSError as error:
            raise Failed(f"the requests are gone: {error}") from None
        return bodies

    def _work(self, item: Item, body: bytes) -> NewWork:
        try:
            head = msgspec.json.decode(body, type=_Head)
        except NOT_JSON as error:
            raise Failed(f"the request {item.place} is damaged on the disk: {error}") from None
        return NewWork(
            id=self._id(item),
            path=COMPLETIONS if head.messages is UNSET else CHAT,
            model=self._job.model,
            body=body,
            priority=self._job.priority,
            deadline=self._options.deadline,
            source="eval",
            traceparent=self._job.traceparent,
        )

    def _principal(self) -> Principal | None:
        text = self._job.principal
        return None if text is None else msgspec.json.decode(text, type=Principal)

    async def _store(self, queued: Sequence[Item]) -> None:
        """Store how items ended that the queue has ended, or does not know any more."""
        ids = [self._id(item) for item in queued]
        found = await self._queue.find_all(ids)
        over = [
            item for item in queued if (one := found.get(self._id(item))) is None or one.is_over
        ]
        answers = await self._queue.answers([self._id(item) for item in over])
        ends = [
            end_of(item, found.get(self._id(item)), answers.get(self._id(item))) for item in over
        ]
        if ends:
            number = self._run.number
            await self._storage.write(lambda db: items.end(db, number, ends))


def end_of(item: Item, found: WorkItem | None, answer: bytes | None) -> End:
    """Return how an item ended, from what the queue has of it."""
    if found is None:
        return End(place=item.place, state=FAILED, code=items.MISSING, error=items.MISSING)
    if found.state == "completed" and answer is not None:
        if is_object(answer):
            return End(
                place=item.place,
                state=COMPLETED,
                status=found.status,
                tries=found.attempts,
                answer=answer,
            )
        code, error = "invalid_response", "the response is no JSON object"
    else:
        code = found.error_code or found.state
        error = found.error or f"the item ended as {found.state}"
    return End(
        place=item.place,
        state=FAILED,
        status=found.status,
        tries=found.attempts,
        code=code,
        error=error,
    )


def is_object(answer: bytes) -> bool:
    """Whether a response is a JSON object in UTF-8."""
    try:
        answer.decode()
        msgspec.json.decode(answer, type=dict[str, Raw])
    except NOT_JSON:
        return False
    return True
