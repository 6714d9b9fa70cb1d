"""Routes for operators, who cancel and requeue the items and batches of all keys."""

from collections.abc import Callable

import msgspec
from starlette.routing import BaseRoute

from gateway import ControlRequest, Host, NotFound
from gateway_plugins.batch.batches.shown import ShownBatch, show
from gateway_plugins.batch.doors.objects import ListedItem, listed
from gateway_plugins.batch.engine import Conflict, Engine
from gateway_plugins.batch.queue.items import STATES, Item

SCOPE = "admin"


class Which(msgspec.Struct, forbid_unknown_fields=True):
    """Which failed items to queue again; None: those of any model, of any key."""

    model: str | None = None
    key: str | None = None


class Requeued(msgspec.Struct):
    """How many items wait again."""

    items: int


class Operating:
    """The handlers."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    def routes(self, gateway: Host) -> list[BaseRoute]:
        """Return the routes."""
        item = "/admin/batch/items/{item_id}"
        batch = "/admin/batch/batches/{batch_id}/cancel"
        return [
            gateway.control(f"{item}/cancel", scope=SCOPE, POST=self.cancel),
            gateway.control(f"{item}/requeue", scope=SCOPE, POST=self.requeue),
            gateway.control("/admin/batch/requeue", scope=SCOPE, POST=self.requeue_failed),
            gateway.control(batch, scope=SCOPE, POST=self.cancel_batch),
        ]

    async def cancel(self, request: ControlRequest) -> ListedItem:
        """Cancel an item, and end its call. Raises NotFound; Conflict if it is over."""
        item = await self._item(request)
        if not await self._engine().cancel(item.id):
            raise Conflict("the item is over, so it cannot be canceled")
        return listed(await self._item(request))

    async def requeue(self, request: ControlRequest) -> ListedItem:
        """Queue a failed or canceled item again. Raises NotFound; Conflict if it may not run."""
        item = await self._item(request)
        if not await self._engine().requeue(item.id):
            raise Conflict(_why_not(await self._item(request)))
        return listed(await self._item(request))

    async def requeue_failed(self, request: ControlRequest) -> Requeued:
        """Queue all failed items again that are no lines of batches."""
        sent = await request.body()
        which = await request.json(Which) if sent else Which()
        return Requeued(await self._engine().requeue_failed(which.model, which.key))

    async def cancel_batch(self, request: ControlRequest) -> ShownBatch:
        """Begin to cancel a batch. Raises NotFound; Conflict if it cannot be cancelled any more."""
        batch = await self._engine().batches.cancel(request.params["batch_id"], None)
        if batch.cancelling is None:
            raise Conflict(f"the batch cannot be cancelled any more: it is {batch.status}")
        return show(batch)

    async def _item(self, request: ControlRequest) -> Item:
        item = await self._engine().find(request.params["item_id"], None)
        if item is None:
            raise NotFound("there is no such item, or it is not kept any more")
        return item


def _why_not(item: Item) -> str:
    if item.batch is not None and item.is_over:
        return "it is a line of a batch file, and has ended; submit the line in another batch"
    return f"it is {STATES[item.state]}, so there is nothing to queue again"
