"""Lists that are read in pages and sent as one JSON array: none is ever whole in memory."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice
from typing import Annotated, Protocol
from urllib.parse import quote, unquote, urlencode

import msgspec
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from gateway import Gateway

PAGE_ROWS = 200
PAGE_BYTES = 4 << 20
"""A page ends with the row that passes so many bytes of JSON."""

Since = Annotated[float, Meta(ge=0, le=1e12)]
Limit = Annotated[int, Meta(ge=0, le=1 << 53)]


class Paging(msgspec.Struct, forbid_unknown_fields=True):
    """What every list takes: rows from `since` (Unix seconds) on, at most `limit`, after `cursor`.

    `cursor` is what `x-next-cursor` said with the page before.
    """

    since: Since | None = None
    limit: Limit | None = None
    cursor: str | None = None


class Listing(Protocol):
    """Rows in an order that does not change, each with a cursor that reading goes on after.

    Both raise BadRequest where `after` is no cursor of theirs.
    """

    def rows(self, db: sqlite3.Connection, after: str | None) -> Iterator[tuple[str, bytes]]:
        """Pairs of a cursor and the row as JSON."""

    def last(self, db: sqlite3.Connection, after: str | None, limit: int) -> str | None:
        """The cursor of the `limit`-th row (1 or more), where another follows it."""


class Page(msgspec.Struct, frozen=True):
    """Rows as JSON with commas between, their count, the last one's cursor, and if any follow."""

    data: bytes
    count: int
    after: str | None
    more: bool


def read_page(
    listing: Listing, after: str | None, room: int | None, db: sqlite3.Connection
) -> Page:
    """At most `room` rows, PAGE_ROWS rows, and not many more than PAGE_BYTES bytes."""
    most = PAGE_ROWS if room is None else min(room, PAGE_ROWS)
    found: list[bytes] = []
    size = 0
    for cursor, row in islice(listing.rows(db, after), most):
        after = cursor
        found.append(row)
        size += len(row)
        if size >= PAGE_BYTES:
            break
    full = len(found) == most or size >= PAGE_BYTES
    more = full and (room is None or len(found) < room)
    return Page(b",".join(found), len(found), after, more)


async def array(gateway: Gateway, listing: Listing, paging: Paging, path: str = "") -> Response:
    """The list as a JSON array, with the headers that lead to the next page where there is one.

    `path` is that of a GET request, for the Link header.
    """
    after = unquote(paging.cursor) if paging.cursor else None
    read = gateway.storage.read
    following = None
    if paging.limit:
        following = await read(lambda db: listing.last(db, after, paging.limit or 0))
    headers = {} if following is None else _leading_on(following, paging, path)
    page = await read(partial(read_page, listing, after, paging.limit))
    if not page.more:
        return Response(b"[%b]" % page.data, headers=headers, media_type="application/json")
    pieces = _pieces(gateway, listing, page, paging.limit)
    return StreamingResponse(pieces, headers=headers, media_type="application/json")


async def _pieces(
    gateway: Gateway, listing: Listing, page: Page, limit: int | None
) -> AsyncIterator[bytes]:
    yield b"[" + page.data
    while page.more:
        limit = None if limit is None else limit - page.count
        page = await gateway.storage.read(partial(read_page, listing, page.after, limit))
        if page.count:
            yield b"," + page.data
    yield b"]"


def _leading_on(following: str, paging: Paging, path: str) -> dict[str, str]:
    cursor = quote(following, safe="")
    if not path:
        return {"x-next-cursor": cursor}
    query = {"since": paging.since, "limit": paging.limit, "cursor": cursor}
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return {"x-next-cursor": cursor, "link": f'<{path}?{given}>; rel="next"'}
