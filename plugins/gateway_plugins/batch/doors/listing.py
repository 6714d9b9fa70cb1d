"""GET /v1/batch: the items of the caller, the newest first."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import BadRequest, ControlRequest, Database, Host
from gateway_plugins.batch.doors.access import visible_to
from gateway_plugins.batch.doors.objects import ListedItem, listed
from gateway_plugins.batch.queue import reading
from gateway_plugins.batch.queue.items import STATES, Item

SCOPE = "batch"


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`after`: the id of the last item of the page before."""

    status: Literal["queued", "running", "completed", "error", "canceled"] | None = None
    model: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    after: str | None = None


class ItemList(msgspec.Struct):
    """A page of items. `last_id` is the `after` of the next page, if there are more."""

    data: list[ListedItem]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class Listing:
    """The list of items."""

    def __init__(self, gateway: Host) -> None:
        self._storage = gateway.storage

    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [gateway.control("/v1/batch", scope=SCOPE, GET=self._list)]

    async def _list(self, request: ControlRequest) -> ItemList:
        query, owner = request.query(ListQuery), visible_to(request)
        # One item more than the page shows whether there are more.
        items = await self._storage.read(lambda db: _items(db, query, owner, query.limit + 1))
        return _page(items, query.limit)


def _items(db: Database, query: ListQuery, owner: str | None, limit: int) -> list[Item]:
    wanted = reading.Wanted(
        owner=owner,
        model=query.model,
        state=None if query.status is None else STATES.index(query.status),
        after=None if query.after is None else _number(db, query.after, owner),
    )
    return reading.items_of(db, wanted, limit)


def _number(db: Database, item_id: str, owner: str | None) -> int:
    item = reading.item_of(db, item_id, owner)
    if item is None:
        raise BadRequest("there is no item of this id to continue after", param="after")
    return item.number


def _page(items: Sequence[Item], limit: int) -> ItemList:
    data = [listed(item) for item in items[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return ItemList(data, first, last, len(items) > limit)
