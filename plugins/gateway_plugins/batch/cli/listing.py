"""`gateway batch list|show`: reads the queue."""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from gateway import NOT_JSON, Database
from gateway_plugins.batch.cli.open_file import settings_of, to_read
from gateway_plugins.batch.cli.output import complain, say, table
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import QUEUED, STATES, Item, ItemError, Kind
from gateway_plugins.batch.queue.reading import Wanted

PAGE = 500
"""Items that are read at a time."""

HEADS = ("ID", "STATUS", "MODEL", "KEY", "PRIORITY", "SUBMITTED", "ATTEMPTS", "LAST ERROR")


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An item as the commands print it. Times are Unix seconds.

    `type` is the door by which it came, `custom_id` and `line` are those in its file. `expires_at`
    is the deadline of an unfinished item; of any other, when it is deleted.
    """

    id: str
    status: str
    type: Kind
    path: str
    model: str
    key: str
    priority: int
    created: float
    started: float | None
    finished: float | None
    not_before: float | None
    expires_at: float | None
    attempts: int
    last_error: ItemError | None
    custom_id: str | None
    line: int | None


class Response(msgspec.Struct, frozen=True):
    """The latest response to an item that is stored."""

    status: int | None
    body: msgspec.Raw


class Whole(msgspec.Struct, frozen=True):
    """An item with the body of its request, and with its response."""

    item: Shown
    request: msgspec.Raw
    response: Response | None


def list_items(arguments: argparse.Namespace) -> int:
    """Print the newest items, the newest first."""
    state = None if arguments.status is None else STATES.index(arguments.status)
    wanted = Wanted(owner=arguments.key, model=arguments.model, state=state)
    with to_read(settings_of(arguments)) as db:
        items = _items(db, wanted, arguments.limit or None)
        if arguments.json:
            for item in items:
                say(msgspec.json.encode(_shown(item)))
        else:
            for line in table(HEADS, map(_row, items)):
                say(line)
    return 0


def _items(db: Database, wanted: Wanted, limit: int | None) -> Iterator[Item]:
    left = limit
    while left is None or left > 0:
        page = reading.items_of(db, wanted, PAGE if left is None else min(left, PAGE))
        yield from page
        if not page:
            return
        wanted = msgspec.structs.replace(wanted, after=page[-1].number)
        left = None if left is None else left - len(page)


def _shown(item: Item) -> Shown:
    is_held = item.state == QUEUED and item.due > 0
    return Shown(
        id=item.id,
        status=STATES[item.state],
        type=item.kind,
        path=item.path,
        model=item.model,
        key=item.owner,
        priority=item.priority,
        created=item.submitted,
        started=item.started,
        finished=item.finished,
        not_before=item.due if is_held else None,
        expires_at=item.expires if item.is_over else item.deadline,
        attempts=item.attempts,
        last_error=item.last_error,
        custom_id=item.custom_id,
        line=item.line,
    )


def _row(item: Item) -> tuple[str, ...]:
    error = item.last_error
    return (
        item.id,
        STATES[item.state],
        item.model,
        item.owner or "-",
        str(item.priority),
        datetime.fromtimestamp(item.submitted, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        str(item.attempts),
        "" if error is None else error.code,
    )


def show_item(arguments: argparse.Namespace) -> int:
    """Print one item with its request and its response."""
    settings = settings_of(arguments)
    with to_read(settings) as db:
        item = reading.item_of(db, arguments.item_id)
        if item is None:
            complain(f"{settings.storage.path}: there is no item {arguments.item_id}")
            return 1
        body, answer = reading.body_of(db, item.number), reading.answer_of(db, item.number)
    response = None if answer is None else Response(item.status, _as_json(answer))
    whole = Whole(_shown(item), _as_json(body), response)
    say(msgspec.json.format(msgspec.json.encode(whole), indent=2))
    return 0


def _as_json(text: bytes) -> msgspec.Raw:
    """Return a text as a JSON value: itself if it is JSON, else a string of it."""
    try:
        text.decode()
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (*NOT_JSON, UnicodeDecodeError):
        return msgspec.Raw(msgspec.json.encode(text.decode("utf-8", "replace")))
