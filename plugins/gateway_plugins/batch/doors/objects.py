"""What callers are told of an item. Times are whole Unix seconds."""

import math
from collections.abc import Collection
from typing import Self

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from gateway import NOT_JSON, Database
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import (
    COMPLETED,
    ERROR,
    QUEUED,
    RUNNING,
    STATES,
    Item,
    ItemError,
    Kind,
)

JSON = "application/json"


class Found(msgspec.Struct, frozen=True):
    """An item as one transaction read it.

    `place` is how many items come before it, None unless it is queued. `answer` is the body of the
    response to it, None unless it is over.
    """

    item: Item
    place: int | None
    answer: bytes | None


class Progress(msgspec.Struct, kw_only=True):
    """The members that every object of an item has; `fill` sets them.

    `attempt` is the number of the attempt in flight, None if there is none; `attempts` counts those
    begun, preempted ones included. `not_before` is when the next may begin, if that is later than
    now. `expires_at` is the deadline of an unfinished item; of any other, when it is deleted.
    """

    attempt: int | None = None
    attempts: int = 0
    not_before: int | None = None
    last_error: ItemError | None = None
    expires_at: int | None = None

    def fill(self, item: Item) -> Self:
        waits = item.state == QUEUED and item.due > 0
        self.attempt = item.attempts if item.state == RUNNING else None
        self.attempts = item.attempts
        self.not_before = math.ceil(item.due) if waits else None
        self.last_error = item.last_error
        self.expires_at = whole(item.expires if item.is_over else item.deadline)
        return self


class ItemStatus(Progress, kw_only=True):
    """An item that is queued, running, failed or canceled.

    `upstream_status` and `upstream_error` are the status and the body of a worker's error.
    """

    id: str
    status: str
    created: int
    position_estimate: int | UnsetType | None = UNSET
    finished: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    upstream_status: int | UnsetType = UNSET
    upstream_error: msgspec.Raw | UnsetType = UNSET


class ListedItem(Progress, kw_only=True):
    """An item in a list. `type` is the door by which it came."""

    id: str
    status: str
    created: int
    model: str
    priority: int
    type: Kind
    custom_id: str | None
    finished: int | None
    error: str | None


class Completion(msgspec.Struct, kw_only=True):
    """The members that a response has beside those of the engine.

    `body` is a response that is no JSON object.
    """

    id: str
    status: str
    created: int
    finished: int
    attempts: int
    expires_at: int | None
    upstream_id: msgspec.Raw | UnsetType = UNSET
    body: str | UnsetType = UNSET


def find(
    db: Database, item_id: str, owner: str | None, kinds: Collection[Kind] | None = None
) -> Found | None:
    """Return an item of this owner (None: anybody's) that came by one of these doors."""
    item = reading.item_of(db, item_id, owner)
    if item is None or (kinds is not None and item.kind not in kinds):
        return None
    place = reading.place_of(db, item) if item.state == QUEUED else None
    return Found(item, place, reading.answer_of(db, item.number) if item.is_over else None)


def shown(found: Found) -> Response:
    """Return the object of an item, as the doors of completions show it."""
    if found.item.state == COMPLETED:
        return Response(_completed(found.item, found.answer or b""), media_type=JSON)
    return Response(msgspec.json.encode(_status(found)), media_type=JSON)


def _status(found: Found) -> ItemStatus:
    item = found.item
    made = ItemStatus(id=item.id, status=STATES[item.state], created=int(item.submitted))
    if not item.is_over:
        made.position_estimate = found.place
    if item.finished is not None:
        made.finished = int(item.finished)
    if item.state == ERROR:
        made.error = error_of(item).message
        made.upstream_status = UNSET if item.status is None else item.status
        made.upstream_error = UNSET if found.answer is None else _as_json(found.answer)
    return made.fill(item)


def listed(item: Item) -> ListedItem:
    """Return an item as lists show it: without its response, and without its place."""
    return ListedItem(
        id=item.id,
        status=STATES[item.state],
        created=int(item.submitted),
        model=item.model,
        priority=item.priority,
        type=item.kind,
        custom_id=item.custom_id,
        finished=whole(item.finished),
        error=error_of(item).message if item.state == ERROR else None,
    ).fill(item)


def whole(seconds: float | None) -> int | None:
    """Return a time as callers get it."""
    return None if seconds is None else int(seconds)


def error_of(item: Item) -> ItemError:
    """Return why an item failed."""
    return item.last_error or ItemError("unknown", "nothing is known of the reason")


def _completed(item: Item, answer: bytes) -> bytes:
    """Return the engine's members, with those of the item in place of its `id` and `created`."""
    try:
        members = msgspec.json.decode(answer, type=dict[str, msgspec.Raw])
    except NOT_JSON:
        members = {}
    own = Completion(
        id=item.id,
        status=STATES[item.state],
        created=int(item.submitted),
        finished=int(item.finished or 0),
        attempts=item.attempts,
        expires_at=whole(item.expires),
        upstream_id=members.get("id", UNSET),
        body=UNSET if members else answer.decode("utf-8", "replace"),
    )
    named = ((name, getattr(own, name)) for name in own.__struct_fields__)
    return msgspec.json.encode({**members, **{k: one for k, one in named if one is not UNSET}})


def _as_json(answer: bytes) -> msgspec.Raw:
    """Return a response as a JSON value: itself if it is JSON, else a string of it."""
    try:
        return msgspec.json.decode(answer, type=msgspec.Raw)
    except NOT_JSON:
        return msgspec.Raw(msgspec.json.encode(answer.decode("utf-8", "replace")))
