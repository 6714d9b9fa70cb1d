"""The routes of usage: sums of all keys for operators, and a key's own usage."""

import base64
import binascii
import logging
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway import (
    Answer,
    BadRequest,
    CallError,
    ControlRequest,
    Database,
    Host,
    Storage,
    StorageError,
)
from gateway_plugins.usage.report.flushing import flush
from gateway_plugins.usage.report.keys import KeyPlace, KeyUse, page_of_keys
from gateway_plugins.usage.report.queries import Place, Values, Wanted, page, sums

log = logging.getLogger("gateway.usage")

OWN_PATH = "/v1/usage"

END = "0"
"""The cursor of a page of keys after which no key follows; as a query, the first page."""

_JSON = ((b"content-type", b"application/json"),)


class UsageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`bucket`: only this day; `cursor`: continue after the page that returned this cursor."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    bucket: Annotated[str, Meta(pattern=r"^[0-9]{8}\Z")] | None = None
    cursor: str | None = None


class UsagePage(msgspec.Struct):
    """Two lists, of the totals or of one day, each with a cursor that continues this list alone.

    `items`: a row for each key; `cursor` is END if no key follows. `data`: a row for each key,
    model, worker and source; `next_cursor` is set if more rows follow. A page of one list has
    nothing of the other.
    """

    bucket: str | None
    items: list[KeyUse] = []
    cursor: str = END
    data: list[Values] = []
    next_cursor: str | None = None
    object: str = "list"


class OwnUsage(msgspec.Struct):
    """Usage of one key: in total, by model and source, and for each day that is kept."""

    key: str
    totals: list[Values]
    days: list[Values]
    object: str = "usage"


class UsageUnreadable(CallError):
    """The core's `storage_unavailable`, as an error of a call."""

    status = 503
    code = "storage_unavailable"


class KeyUsageRoute:
    """GET /monitor/key_usage."""

    def __init__(self, gateway: Host) -> None:
        self._storage = gateway.storage

    async def show(self, request: ControlRequest) -> UsagePage:
        query = request.query(UsageQuery)
        places = _places(query)
        await flush(self._storage)
        return await self._storage.read(lambda db: _page(db, query, places))


def _page(db: Database, query: UsageQuery, places: list[Place | KeyPlace]) -> UsagePage:
    shown = UsagePage(query.bucket)
    for after in places:
        if isinstance(after, KeyPlace):
            _add_keys(db, shown, after, query.limit)
        else:
            _add_rows(db, shown, after, query.limit)
    return shown


# One row more than the page shows whether there are more.


def _add_keys(db: Database, shown: UsagePage, after: KeyPlace, limit: int) -> None:
    found = page_of_keys(db, after, limit + 1)
    shown.items = found[:limit]
    if len(found) > limit:
        shown.cursor = _cursor(KeyPlace(after.bucket, shown.items[-1].key_id))


def _add_rows(db: Database, shown: UsagePage, after: Place, limit: int) -> None:
    found = page(db, after, limit + 1)
    shown.data = found[:limit]
    if len(found) > limit:
        row = {"bucket": after.bucket, **shown.data[-1]}
        shown.next_cursor = _cursor(msgspec.convert(row, Place))


def _places(query: UsageQuery) -> list[Place | KeyPlace]:
    """Return the places after which the lists of the page begin.

    Raises BadRequest if the day does not exist, or if the cursor is not of this list.
    """
    if query.bucket is not None:
        try:
            time.strptime(query.bucket, "%Y%m%d")
        except ValueError:
            raise BadRequest(f"there is no day {query.bucket}", param="bucket") from None
    bucket = None if query.bucket is None else int(query.bucket)
    if query.cursor in (None, END):
        return [KeyPlace(bucket), Place(bucket)]
    try:
        text = base64.urlsafe_b64decode(query.cursor)
        place: Place | KeyPlace | None = msgspec.json.decode(text, type=Place | KeyPlace)
    except (binascii.Error, ValueError, RecursionError):
        place = None
    if place is None or place.bucket != bucket:
        message = "this cursor is not from a page of this list; begin without one"
        raise BadRequest(message, param="cursor")
    return [place]


def _cursor(place: Place | KeyPlace) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


async def own_answer(storage: Storage, key: str) -> Answer:
    """Return the response to GET /v1/usage. Raises UsageUnreadable."""
    await flush(storage)
    try:
        used = await storage.read(lambda db: _own(db, key))
    except StorageError as error:
        log.error("GET %s: storage: %s", OWN_PATH, error)
        message = "the database cannot be used now; /health says why"
        raise UsageUnreadable(message) from None
    return Answer(200, _JSON, msgspec.json.encode(used))


def _own(db: Database, key: str) -> OwnUsage:
    wanted = Wanted(key=key)
    return OwnUsage(key, [*sums(db, ("model", "source"), wanted)], [*sums(db, ("day",), wanted)])
