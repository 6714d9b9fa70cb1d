"""Changes items that no call has just ended: cancels, expires, requeues and deletes them.

Each function changes at most `limit` items and returns those, so that a caller can change many in
slices, with the commits of calls between them.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

import msgspec

from gateway import Database, Value
from gateway_plugins.batch.queue.items import (
    CANCELED,
    ERROR,
    EXPIRED,
    QUEUED,
    UNLOADABLE,
    ItemError,
    Running,
)
from gateway_plugins.batch.queue.lanes import Counts, delete_unused

LATE = "the item was not done by its deadline"

REQUEUED = "requeued"
"""Code of the error of an item that an operator has queued again."""

NO_REASONS: Mapping[str, str] = {}

SLICE = 500
"""Items that one transaction changes."""

_END = (
    "UPDATE batch_items SET state = :state, finished = :now, expires = :expires, error = :error,"
    " due = 0, holder = NULL WHERE number = :number"
)
_AGAIN = (
    "UPDATE batch_items SET state = 0, due = 0, holder = NULL, error = :error, finished = NULL,"
    " expires = NULL, status = NULL, charged = CASE WHEN :anew THEN 0 ELSE charged + :charged END,"
    " deadline = max(deadline, :deadline) WHERE number = :number"
)


class Found(msgspec.Struct, frozen=True):
    """An item to change. `state` is the one before the change."""

    number: int
    id: str
    lane: int
    state: int
    batch: int | None
    path: str
    line: int | None


_FOUND = ", ".join(Found.__struct_fields__)


class End(msgspec.Struct, frozen=True):
    """The end of items: `now`, and when what is stored of them `expires`."""

    now: float
    expires: float


def _select(db: Database, where: str, named: Mapping[str, Value], limit: int) -> list[Found]:
    query = f"SELECT {_FOUND} FROM batch_items WHERE {where} LIMIT :limit"
    return [Found(*row) for row in db.select(query, {**named, "limit": limit})]


def _end(db: Database, found: Iterable[Found], state: int, error: ItemError, end: End) -> None:
    """End items without a response."""
    counts, failed = Counts(), Counter[int]()
    text = msgspec.json.encode(error).decode()
    for one in found:
        named = {"number": one.number, "state": state, "now": end.now, "expires": end.expires}
        db.execute(_END, {**named, "error": text})
        counts.move(one.lane, one.state, state)
        if one.batch is not None:
            failed[one.batch] += 1
    counts.write(db)
    for batch, items in failed.items():
        db.execute(
            "UPDATE batches SET failed = failed + :items WHERE number = :batch",
            {"batch": batch, "items": items},
        )


def cancel(db: Database, item_id: str, end: End) -> Found | None:
    """Cancel a queued or running item; None if there is no such item.

    The call of a running one has to be ended by the process that runs it.
    """
    found = _select(db, "id = :id AND state IN (0, 1)", {"id": item_id}, 1)
    _end(db, found, CANCELED, ItemError("canceled", "the item was canceled"), end)
    return found[0] if found else None


def cancel_lines(
    db: Database, batch: int, after: int, error: ItemError, end: End, limit: int = SLICE
) -> list[Found]:
    """Cancel queued and running items of a batch, in the order of their lines, after that line.

    The calls of running ones have to be ended by the processes that run them.
    """
    where = "batch = :batch AND line > :after AND state IN (0, 1) ORDER BY line"
    found = _select(db, where, {"batch": batch, "after": after}, limit)
    _end(db, found, CANCELED, error, end)
    return found


def expire(
    db: Database, end: End, reasons: Mapping[str, str] = NO_REASONS, limit: int = SLICE
) -> list[Found]:
    """End queued items whose deadline has passed; `reasons` has why models were not there."""
    found = _select(db, "state = 0 AND deadline <= :now", {"now": end.now}, limit)
    lanes = _models(db) if found and reasons else {}
    told: defaultdict[str | None, list[Found]] = defaultdict(list)
    for one in found:
        told[reasons.get(lanes.get(one.lane, ""))].append(one)
    for reason, some in told.items():
        text = LATE if reason is None else f"{LATE}: {reason}"
        _end(db, some, ERROR, ItemError(EXPIRED, text), end)
    return found


def drop(
    db: Database, model: str, reason: str, since: float, end: End, limit: int = SLICE
) -> list[Found]:
    """End queued items of a model that cannot be loaded, and for which waiting is in vain.

    Those that were submitted after `since`, in Unix seconds, stay.
    """
    lanes = "SELECT lane FROM batch_lanes WHERE model = :model"
    where = f"state = 0 AND lane IN ({lanes}) AND submitted <= :since"
    found = _select(db, where, {"model": model, "since": since}, limit)
    _end(db, found, ERROR, ItemError(UNLOADABLE, reason), end)
    return found


def _models(db: Database) -> dict[int, str]:
    """Return the model of each lane."""
    return dict(db.select("SELECT lane, model FROM batch_lanes"))


def requeue_of(db: Database, holder: int, reason: ItemError, limit: int = SLICE) -> list[Found]:
    """Queue the items again that a process has left running when it ended."""
    found = _select(db, "holder = :holder AND state = 1", {"holder": holder}, limit)
    _again(db, found, reason)
    return found


def requeue_orphans(db: Database, reason: ItemError, limit: int = SLICE) -> list[Found]:
    """Queue the items again that run in a process which is not registered."""
    where = "holder IS NOT NULL AND holder NOT IN (SELECT number FROM batch_holders) AND state = 1"
    found = _select(db, where, {}, limit)
    _again(db, found, reason)
    return found


def give_up(
    db: Database, running: Collection[Running], reason: ItemError, most: int, end: End
) -> list[Found]:
    """Queue items again whose process has lost sight of them; return those.

    This counts as an attempt; items that had `most` of them end with an error instead.
    """
    where = "number = :number AND holder = :holder AND attempts = :attempt AND state = 1"
    found = [
        (one, run) for run in running for one in _select(db, where, msgspec.structs.asdict(run), 1)
    ]
    _again(db, [one for one, run in found if run.charged + 1 < most], reason, charged=1)
    _end(db, [one for one, run in found if run.charged + 1 >= most], ERROR, reason, end)
    return [one for one, _ in found]


def requeue(db: Database, item_id: str, deadline: float) -> Found | None:
    """Queue a failed or canceled item again, as if it had not been tried; None: there is none."""
    where = "id = :id AND state IN (3, 4) AND batch IS NULL"
    found = _select(db, where, {"id": item_id}, 1)
    _again_anew(db, found, deadline)
    return found[0] if found else None


_FAILED = (
    "state = 3 AND batch IS NULL AND finished <= :before AND lane IN (SELECT lane FROM batch_lanes"
    " WHERE (:model IS NULL OR model = :model) AND (:owner IS NULL OR owner = :owner))"
)
"""The lanes are named in any case, so that an index finds the failed items of each."""


class Failed(msgspec.Struct, frozen=True):
    """Failed items that have ended by the time `before`; None: of any model, or owner."""

    model: str | None
    owner: str | None
    before: float


def count_failed(db: Database, which: Failed) -> int:
    """Return how many failed items may be queued again."""
    query = f"SELECT count(*) FROM batch_items WHERE {_FAILED}"
    [(count,)] = db.select(query, msgspec.structs.asdict(which))
    return int(count)


def requeue_failed(db: Database, which: Failed, deadline: float, limit: int) -> list[Found]:
    """Queue failed items again, as `requeue` does."""
    found = _select(db, _FAILED, msgspec.structs.asdict(which), limit)
    _again_anew(db, found, deadline)
    return found


def _again_anew(db: Database, found: Collection[Found], deadline: float) -> None:
    reason = ItemError(REQUEUED, "an operator has queued it again")
    _again(db, found, reason, anew=True, deadline=deadline)
    for one in found:
        db.execute("DELETE FROM batch_answers WHERE number = :number", {"number": one.number})


def _again(
    db: Database,
    found: Iterable[Found],
    reason: ItemError,
    *,
    charged: int = 0,
    anew: bool = False,
    deadline: float = 0.0,
) -> None:
    counts, text = Counts(), msgspec.json.encode(reason).decode()
    for one in found:
        named: dict[str, Value] = {"number": one.number, "error": text, "charged": charged}
        db.execute(_AGAIN, {**named, "anew": anew, "deadline": deadline})
        counts.move(one.lane, one.state, QUEUED)
    counts.write(db)


def delete_expired(db: Database, now: float, limit: int = SLICE) -> int:
    """Delete items whose results are kept no longer; return how many.

    Those of an unfinished batch stay: they are still to be written to its files.
    """
    where = (
        "expires <= :now AND state >= 2 AND (batch IS NULL"
        " OR batch NOT IN (SELECT number FROM batches WHERE ended IS NULL))"
    )
    found = _select(db, where, {"now": now}, limit)
    delete(db, found)
    return len(found)


def delete(db: Database, found: Collection[Found]) -> None:
    """Delete items, with their requests and responses."""
    counts = Counts()
    for one in found:
        for table in ("batch_items", "batch_bodies", "batch_answers"):
            db.execute(f"DELETE FROM {table} WHERE number = :number", {"number": one.number})
        counts.move(one.lane, one.state, None)
    counts.write(db)
    for lane in {one.lane for one in found}:
        delete_unused(db, lane)


def forget_submissions(db: Database, before: float, limit: int = SLICE) -> int:
    """Delete what recognises repeated submissions, of those before `before`; return how many."""
    statement = (
        "DELETE FROM batch_submissions WHERE (owner, key) IN (SELECT owner, key"
        " FROM batch_submissions WHERE submitted < :before LIMIT :limit)"
    )
    return db.execute(statement, {"before": before, "limit": limit})
