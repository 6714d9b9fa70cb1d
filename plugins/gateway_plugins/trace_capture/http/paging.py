"""Reads lists in pages and sends them as one JSON array: no list is ever whole in memory."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import islice
from typing import Protocol
from urllib.parse import quote, unquote, urlencode

import msgspec
from starlette.responses import Response, StreamingResponse

from gateway import Database, Host
from gateway_plugins.trace_capture.http.fields import Limit, Timestamp

PAGE_ROWS = 200
PAGE_BYTES = 4 << 20
"""A page ends with the row that reaches this many bytes of JSON."""


class Paging(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of every list: at most `limit` rows, from `since` (Unix seconds), after `cursor`.

    `cursor` is the `x-next-cursor` header of the page before.
    """

    since: Timestamp | None = None
    limit: Limit | None = None
    cursor: str | None = None


class Listing(Protocol):
    """Rows in a fixed order, each with a cursor after which reading can continue.

    Both methods raise BadRequest if `after` is not a cursor of this listing.
    """

    def rows(self, db: Database, after: str | None) -> Iterator[tuple[str, bytes]]:
        """Yield pairs of a cursor and the row as JSON."""

    def last_of_page(self, db: Database, after: str | None, limit: int) -> str | None:
        """Return the cursor of the `limit`-th row (1 or more) if another row follows, else None."""


class Page(msgspec.Struct, frozen=True):
    """Comma-separated rows as JSON, their count, the last cursor, and whether to read on."""

    data: bytes
    count: int
    after: str | None
    more: bool


def read_page(listing: Listing, after: str | None, room: int | None, db: Database) -> Page:
    """Read at most `room` and PAGE_ROWS rows; stop with the row that reaches PAGE_BYTES."""
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


async def array(gateway: Host, listing: Listing, paging: Paging, path: str = "") -> Response:
    """Return the list as a JSON array, with headers that lead to the next page, if there is one.

    `path` is the path of a GET request, for the Link header; it is empty for other methods.
    """
    after = unquote(paging.cursor) if paging.cursor else None
    read = gateway.storage.read
    following = None
    if paging.limit:
        following = await read(lambda db: listing.last_of_page(db, after, paging.limit or 0))
    headers = {} if following is None else _next_page_headers(following, paging, path)
    page = await read(partial(read_page, listing, after, paging.limit))
    if not page.more:
        return Response(b"[%b]" % page.data, headers=headers, media_type="application/json")
    pieces = _pieces(gateway, listing, page, paging.limit)
    return StreamingResponse(pieces, headers=headers, media_type="application/json")


async def _pieces(
    gateway: Host, listing: Listing, page: Page, limit: int | None
) -> AsyncIterator[bytes]:
    yield b"[" + page.data
    while page.more:
        limit = None if limit is None else limit - page.count
        page = await gateway.storage.read(partial(read_page, listing, page.after, limit))
        if page.count:
            yield b"," + page.data
    yield b"]"


def _next_page_headers(following: str, paging: Paging, path: str) -> dict[str, str]:
    cursor = quote(following, safe="")
    if not path:
        return {"x-next-cursor": cursor}
    query = {**msgspec.structs.asdict(paging), "cursor": cursor}
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return {"x-next-cursor": cursor, "link": f'<{path}?{given}>; rel="next"'}
