"""Stores how calls for items ended, each in the transaction of its call, with trace and usage."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from gateway import Database, Usage
from gateway_plugins.batch.queue.items import COMPLETED, QUEUED, RUNNING, Claimed, Ended, Running
from gateway_plugins.batch.queue.lanes import Counts
from gateway_plugins.batch.queue.texts import pack

log = logging.getLogger("gateway.batch")

_SETTLE = """
UPDATE batch_items SET state = :state, due = :due, finished = :finished, expires = :expires,
    status = :status, error = :error, request_id = :request_id, charged = charged + :charged,
    holder = NULL
WHERE number = :number AND id = :id AND state = 1 AND holder = :holder AND attempts = :attempt
"""
_ANSWER = "INSERT INTO batch_answers (number, answer)"
_ON_CONFLICT = "ON CONFLICT (number) DO UPDATE SET answer = excluded.answer"

_COUNT = """
UPDATE batches SET completed = completed + :completed, failed = failed + :failed,
    input_tokens = input_tokens + :input, cached_tokens = cached_tokens + :cached,
    output_tokens = output_tokens + :output, reasoning_tokens = reasoning_tokens + :reasoning
WHERE number = :number
"""


class Progress(msgspec.Struct):
    """What the calls of one transaction add to a batch."""

    completed: int = 0
    failed: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def add(self, end: Ended) -> None:
        used = end.usage or Usage()
        self.input += used.prompt_tokens
        self.cached += used.cached_tokens
        self.output += used.completion_tokens
        self.reasoning += used.reasoning_tokens
        if end.state != QUEUED:
            done = end.state == COMPLETED
            self.completed += done
            self.failed += not done


class Written(msgspec.Struct, eq=False):
    """An Ended, its response packed, and whether the item still was this process's to end."""

    end: Ended
    answer: bytes | None
    taken: bool = True


class Refill(Protocol):
    """Claims items for the places of those that end. Its methods run in the writer's thread."""

    def claim(self, db: Database, ends: Sequence[Ended]) -> None:
        """Claim in this transaction, which may be tried again. Raises StorageError."""

    def committed(self, ends: Sequence[Ended]) -> None:
        """The transaction of the latest `claim` was committed."""

    def lost(self, end: Ended) -> None:
        """The end will never be stored; may run in the event loop's thread too."""


class Settling:
    """A gateway Sink of Ended. `settled` is called in the writer's thread after each commit.

    `waiting` are the attempts whose ends are not committed yet.

    The end of an item that was cancelled meanwhile, or that another process has taken over, changes
    nothing: an item has at most one committed response.
    """

    def __init__(
        self, settled: Callable[[Sequence[Written]], None], refill: Refill | None = None
    ) -> None:
        self.waiting: set[Running] = set()
        self._settled = settled
        self._refill = refill

    def expect(self, item: Claimed) -> None:
        """Note that an Ended of this item is about to be stored."""
        self.waiting.add(item.running)

    def prepare(self, db: Database, item: Ended) -> Written:
        return Written(item, None if item.answer is None else pack(item.answer))

    def write(self, db: Database, rows: Sequence[Written]) -> None:
        counts, answers = Counts(), []
        batches: defaultdict[int, Progress] = defaultdict(Progress)
        for row in rows:
            end = row.end
            row.taken = db.execute(_SETTLE, _params(end)) == 1
            if not row.taken:
                continue
            counts.move(end.item.lane, RUNNING, end.state)
            if end.item.batch is not None:
                batches[end.item.batch].add(end)
            if row.answer is not None:
                answers.append((end.item.number, row.answer))
        if answers:
            db.insert(_ANSWER, answers, _ON_CONFLICT)
        counts.write(db)
        for number, progress in batches.items():
            db.execute(_COUNT, {"number": number, **msgspec.structs.asdict(progress)})
        if (refill := self._refill) is not None and (ends := _refilled(rows)):
            refill.claim(db, ends)

    def written(self, rows: Sequence[Written]) -> None:
        for row in rows:
            self.waiting.discard(row.end.item.running)
        if (refill := self._refill) is not None and (ends := _refilled(rows)):
            refill.committed(ends)
        self._settled(rows)

    def lost(self, item: Ended, error: Exception) -> None:
        """Let go of the item: `changes.give_up` queues it again."""
        log.error("the end of item %s could not be stored, so it will run again", item.item.id)
        self.waiting.discard(item.item.running)
        if self._refill is not None and item.refills is not None:
            self._refill.lost(item)


def _refilled(rows: Sequence[Written]) -> Sequence[Ended]:
    return [row.end for row in rows if row.end.refills is not None]


def _params(end: Ended) -> dict[str, int | float | str | None]:
    item = end.item
    return {
        "number": item.number,
        "id": item.id,
        "holder": item.holder,
        "attempt": item.attempt,
        "state": end.state,
        "due": end.due if end.state == QUEUED else 0.0,
        "finished": None if end.state == QUEUED else end.at,
        "expires": end.expires,
        "status": end.status,
        "error": end.error,
        "request_id": end.request_id,
        "charged": int(end.counts),
    }
