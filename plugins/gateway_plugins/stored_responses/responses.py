"""Routes of kept responses: show one, its events and its input; cancel it; delete it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from functools import partial

from gateway import Answer, BadRequest, Call, Host
from gateway_plugins.stored_responses import rows, showing
from gateway_plugins.stored_responses.background import FLUSH, Background
from gateway_plugins.stored_responses.turns import not_found, owner_of

OURS = re.compile("resp_[0-9a-f]{32}")
"""Ids that this plugin gives; others are a worker's."""


class Responses:
    """Answers the calls about kept responses; None for one that is not kept here."""

    def __init__(self, gateway: Host, background: Background) -> None:
        self._storage = gateway.storage
        self._background = background

    async def answer(self, call: Call, id_: str, rest: str) -> Answer | None:
        owner = owner_of(call)
        holder = await self._storage.read(lambda db: rows.find(db, owner, "response", id_))
        if holder is None:
            if OURS.fullmatch(id_):
                raise not_found(id_)
            return None
        asked = (call.method, rest)
        if asked == ("GET", ""):
            return self._show(call, holder)
        if asked == ("GET", "input_items"):
            return await self._inputs(call, holder)
        if asked == ("DELETE", ""):
            return await self._delete(holder)
        if asked == ("POST", "cancel"):
            return await self._cancel(holder)
        return None

    def _show(self, call: Call, holder: rows.Holder) -> Answer:
        query = showing.query_of(call)
        if query.get("stream") in ("true", "True", "1"):
            if not holder.has_events:
                raise BadRequest(
                    f"{holder.id} was not made with `background` and `stream`: it has no events",
                    param="stream",
                )
            after = showing.number(query, "starting_after", -1)
            return Answer(200, showing.EVENT_HEADERS, self.events(holder, after))
        run = self._background.find(holder.owner, holder.id)
        if run is None or not run.runs:  # it has ended for callers once that is kept
            return showing.shown(holder, time.time())
        return showing.json(run.turn.body())

    def events(self, holder: rows.Holder, after: int) -> AsyncIterator[bytes]:
        """Yield the events of a response after number `after`, as they come."""
        run = self._background.find(holder.owner, holder.id)
        return run.follow(after) if run is not None else self._kept_events(holder, after)

    async def _kept_events(self, holder: rows.Holder, after: int) -> AsyncIterator[bytes]:
        """Yield the events of a response that has ended, or that another process runs."""
        number, owner, id_ = holder.number, holder.owner, holder.id
        now: rows.Holder | None = holder
        while now is not None:
            over = bool(now.logged) or now.died(time.time())
            some = await self._storage.read(partial(rows.events, holder=number, after=after))
            if some:
                after += len(some)
                yield b"".join(some)
            if over:
                return
            await asyncio.sleep(FLUSH)
            now = await self._storage.read(lambda db: rows.find(db, owner, "response", id_))

    async def _inputs(self, call: Call, holder: rows.Holder) -> Answer:
        wanted = showing.page_of(showing.query_of(call))
        found = await self._storage.read(
            lambda db: rows.page(db, holder.number, wanted, inputs_only=True)
        )
        return showing.listed(found, wanted.limit)

    async def _delete(self, holder: rows.Holder) -> Answer:
        run = self._background.find(holder.owner, holder.id)
        if run is not None or (holder.runs and not holder.died(time.time())):
            raise BadRequest(f"{holder.id} has not ended yet: cancel it first", param="response_id")
        await self._storage.write(lambda db: rows.delete(db, [holder.number]))
        return showing.deleted(holder.id, "response")

    async def _cancel(self, holder: rows.Holder) -> Answer:
        if not holder.is_background:
            raise BadRequest("Cannot cancel a synchronous response.", param="response_id")
        await self._background.cancel(holder)
        again = await self._storage.read(
            lambda db: rows.find(db, holder.owner, "response", holder.id)
        )
        return showing.shown(again or holder, time.time())
