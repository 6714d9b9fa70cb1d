"""The routes of usage: sums of all keys for operators, and a key's own usage."""

import base64
import binascii
import contextlib
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
    StorageUnavailable,
)
from gateway_plugins.usage.report.queries import Place, Values, Wanted, page, sums

log = logging.getLogger("gateway.usage")

OWN_PATH = "/v1/usage"

_JSON = ((b"content-type", b"application/json"),)


class UsageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`bucket`: only this day; `cursor`: continue after the page that returned this cursor."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    bucket: Annotated[str, Meta(pattern=r"^[0-9]{8}\Z")] | None = None
    cursor: str | None = None


class UsagePage(msgspec.Struct):
    """Rows of the totals, or of one day; `next_cursor` is set if more rows follow."""

    bucket: str | None
    data: list[Values]
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
        after = _place(query)
        await _flush(self._storage)
        # One row more than the page shows whether there are more.
        rows = await self._storage.read(lambda db: page(db, after, query.limit + 1))
        shown = rows[: query.limit]
        following = _cursor(after.bucket, shown[-1]) if len(rows) > len(shown) else None
        return UsagePage(query.bucket, shown, following)


def _place(query: UsageQuery) -> Place:
    """Return the place after which the page begins.

    Raises BadRequest if the day does not exist, or if the cursor is not of this list.
    """
    if query.bucket is not None:
        try:
            time.strptime(query.bucket, "%Y%m%d")
        except ValueError:
            raise BadRequest(f"there is no day {query.bucket}", param="bucket") from None
    bucket = None if query.bucket is None else int(query.bucket)
    if query.cursor is None:
        return Place(bucket)
    try:
        place = msgspec.json.decode(base64.urlsafe_b64decode(query.cursor), type=Place)
    except (binascii.Error, ValueError, RecursionError):
        place = None
    if place is None or place.bucket != bucket:
        message = "this cursor is not from a page of this list; begin without one"
        raise BadRequest(message, param="cursor")
    return place


def _cursor(bucket: int | None, row: Values) -> str:
    place = msgspec.convert({"bucket": bucket, **row}, Place)
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


async def _flush(storage: Storage) -> None:
    """Commit the rows of calls that are over, including those whose commit was postponed."""
    with contextlib.suppress(StorageUnavailable):
        await storage.flush()


async def own_answer(storage: Storage, key: str) -> Answer:
    """Return the response to GET /v1/usage. Raises UsageUnreadable."""
    await _flush(storage)
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
