"""Finds the item that a request is about, waits for its end, and cancels it."""

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway import ControlRequest, Host, NotFound
from gateway_plugins.batch.doors.access import visible_to
from gateway_plugins.batch.doors.objects import Found, find
from gateway_plugins.batch.engine import Conflict, Engine
from gateway_plugins.batch.queue.items import Kind

MAX_WAIT = 60.0
"""Seconds that a request may wait for the end of an item."""


class ShowQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`wait`: seconds to wait for the end of the item, at most MAX_WAIT."""

    wait: Annotated[float, Meta(ge=0)] = 0.0


class Looking:
    """Finds items of some `kinds` for the callers of `gateway`."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine], *kinds: Kind) -> None:
        self._storage = gateway.storage
        self._engine = engine
        self._kinds = kinds

    async def show(self, request: ControlRequest) -> Found:
        """Return the item, as soon as it is over or the wait is. Raises NotFound."""
        seconds = min(request.query(ShowQuery).wait, MAX_WAIT)
        if seconds > 0:
            item_id, owner = request.params["item_id"], visible_to(request)
            await request.unless_gone(self._engine().wait(item_id, owner, seconds))
        return await self._found(request)

    async def cancel(self, request: ControlRequest) -> Found:
        """Cancel the item and return it. Raises NotFound; Conflict if the item is over."""
        found = await self._found(request)
        if not await self._engine().cancel(found.item.id):
            raise Conflict("the item is over, so it cannot be canceled; GET shows how it ended")
        return await self._found(request)

    async def _found(self, request: ControlRequest) -> Found:
        item_id, owner = request.params["item_id"], visible_to(request)
        found = await self._storage.read(lambda db: find(db, item_id, owner, self._kinds))
        if found is None:
            raise NotFound("there is no such item, or it is not kept any more")
        return found
