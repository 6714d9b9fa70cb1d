"""Adds items to the queue."""

import time
from collections.abc import Sequence

import msgspec

from gateway import Database, TooManyRequests, Value
from gateway_plugins.batch.queue.items import QUEUED, NewItem, Owner
from gateway_plugins.batch.queue.lanes import Counts, check_busy, lane_of, queued, reserved
from gateway_plugins.batch.queue.texts import pack

_ITEMS = (
    "INSERT INTO batch_items (number, id, lane, kind, path, principal, batch, line, custom_id,"
    " estimate, submitted, deadline, traceparent)"
)
_BODIES = "INSERT INTO batch_bodies (number, body)"

_PRINCIPAL = "SELECT number FROM batch_principals WHERE content = :content"


class Room(msgspec.Struct, frozen=True):
    """How many items may be queued: in all, and of one owner."""

    most: int
    most_of_owner: int

    def check(self, db: Database, owner: str, more: int) -> None:
        """Raise TooManyRequests if `more` items of the owner have no room."""
        if queued(db) + reserved(db) + more > self.most:
            raise TooManyRequests(f"the queue is full: {self.most} items (max_queued)")
        if queued(db, owner) + reserved(db, owner) + more > self.most_of_owner:
            most = self.most_of_owner
            message = f"this key has {most} items queued, and may have no more (max_queued_per_key)"
            raise TooManyRequests(message)


def submit(db: Database, owner: Owner, items: Sequence[NewItem], room: Room) -> None:
    """Queue items of one owner. Raises TooManyRequests, and then adds none of them."""
    room.check(db, owner.id, len(items))
    add(db, owner.id, principal_number(db, owner), items)


def add(db: Database, owner: str, principal: int | None, items: Sequence[NewItem]) -> None:
    """Queue items without asking whether there is room for them.

    Raises TooManyRequests, and then adds none, if they are of too many models and priorities.
    """
    [(last,)] = db.select("SELECT coalesce(max(number), 0) FROM batch_items")
    lanes: dict[tuple[str, int], int] = {}
    rows, bodies, counts = [], [], Counts()
    for number, item in enumerate(items, last + 1):
        name = item.model, item.priority
        lane = lanes.get(name) or lane_of(db, owner, *name)
        lanes[name] = lane
        counts.move(lane, None, QUEUED)
        rows.append(_row(number, lane, principal, item))
        bodies.append((number, pack(item.body)))
    db.insert(_ITEMS, rows)
    db.insert(_BODIES, bodies)
    counts.write(db)
    check_busy(db, owner)


def _row(number: int, lane: int, principal: int | None, item: NewItem) -> Sequence[object]:
    return (
        number,
        item.id,
        lane,
        item.kind,
        item.path,
        principal,
        item.batch,
        item.line,
        item.custom_id,
        item.estimate,
        item.submitted,
        item.deadline,
        item.traceparent,
    )


def principal_number(db: Database, owner: Owner) -> int | None:
    """Return the row that has the owner's principal; adds it if there is none."""
    if owner.principal is None:
        return None
    content = msgspec.json.encode(owner.principal, order="deterministic").decode()
    for (number,) in db.select(_PRINCIPAL, {"content": content}):
        return int(number)
    db.insert("INSERT INTO batch_principals (content)", [(content,)])
    [(number,)] = db.select(_PRINCIPAL, {"content": content})
    return int(number)


class Submission(msgspec.Struct, frozen=True):
    """What an `Idempotency-Key` stands for: `digest` is that of the request."""

    owner: str
    key: str
    digest: bytes


KEPT = 86_400.0
"""Seconds for which a repeated submission is recognised."""


def repeated(db: Database, submission: Submission) -> tuple[str, bool] | None:
    """Return the id of the earlier submission of this key, and whether it was the same request."""
    query = (
        "SELECT id, digest FROM batch_submissions"
        " WHERE owner = :owner AND key = :key AND submitted > :since"
    )
    named: dict[str, Value] = {
        "owner": submission.owner,
        "key": submission.key,
        "since": time.time() - KEPT,
    }
    for item_id, digest in db.select(query, named):
        return item_id, digest == submission.digest
    return None


def remember(db: Database, submission: Submission, item_id: str) -> None:
    """Store that this submission created `item_id`."""
    row = (submission.owner, submission.key, submission.digest, item_id, time.time())
    db.insert(
        "INSERT INTO batch_submissions (owner, key, digest, id, submitted)",
        [row],
        "ON CONFLICT (owner, key) DO UPDATE SET digest = excluded.digest, id = excluded.id,"
        " submitted = excluded.submitted",
    )
