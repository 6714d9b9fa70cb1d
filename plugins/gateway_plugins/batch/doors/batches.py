"""OpenAI's batches: `/v1/batches`."""

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import ControlRequest, Host
from gateway_plugins.batch.batches.batches import Batches, new_batch
from gateway_plugins.batch.batches.creating import NewBatch, check_endpoint
from gateway_plugins.batch.batches.shown import Page, ShownBatch, page, show
from gateway_plugins.batch.doors.access import owner_of, visible_to
from gateway_plugins.batch.engine import Conflict, Engine

SCOPE = "batch"

RETRY_COUNT = "x-stainless-retry-count"
"""Header in which the `openai` client says how often it has sent the request before."""


class ListQuery(msgspec.Struct):
    """`after`: the id of the last batch of the page before."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str | None = None


def batch_routes(gateway: Host, engine: Callable[[], Engine]) -> list[BaseRoute]:
    """Return the routes of batches."""
    doors = BatchDoors(gateway, engine)
    one = "/v1/batches/{batch_id}"
    return [
        gateway.control("/v1/batches", scope=SCOPE, POST=doors.create, GET=doors.page),
        gateway.control(f"{one}/cancel", scope=SCOPE, POST=doors.cancel),
        gateway.control(one, scope=SCOPE, GET=doors.show, DELETE=doors.cancel),
    ]


class BatchDoors:
    """The handlers."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine]) -> None:
        self._gateway = gateway
        self._engine = engine

    @property
    def _batches(self) -> Batches:
        return self._engine().batches

    async def create(self, request: ControlRequest) -> ShownBatch:
        """Create a batch, or return the one that the client asks for again."""
        asked = await request.json(NewBatch)
        check_endpoint(self._gateway, asked.endpoint)
        digest = hashlib.sha256(await request.body()).digest()
        is_repeat = (request.header(RETRY_COUNT) or "0").strip("0") != ""
        owner, seen_by = owner_of(request), visible_to(request)
        new = new_batch(owner, asked, digest, request.traceparent)
        return show(await self._batches.create(owner, new, seen_by, is_repeat))

    async def page(self, request: ControlRequest) -> Page:
        """List batches."""
        query = request.query(ListQuery)
        # One more than the page shows whether there are more.
        found = await self._batches.page(visible_to(request), query.after, query.limit + 1)
        return page(found, query.limit)

    async def show(self, request: ControlRequest) -> ShownBatch:
        """Show a batch."""
        return show(await self._batches.find(request.params["batch_id"], visible_to(request)))

    async def cancel(self, request: ControlRequest) -> ShownBatch:
        """Begin to cancel a batch; one that is cancelled already stays so."""
        batch = await self._batches.cancel(request.params["batch_id"], visible_to(request))
        if batch.cancelling is None:
            raise Conflict(f"the batch cannot be cancelled any more: it is {batch.status}")
        return show(batch)
