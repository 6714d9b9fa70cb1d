"""Routes of conversations and their items."""

import time
import uuid
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from gateway import (
    Answer,
    BadRequest,
    Call,
    Database,
    Host,
    KeptItem,
    Untranslatable,
    output_items,
    read_items,
)
from gateway_plugins.stored_responses import rows, showing
from gateway_plugins.stored_responses.options import Options
from gateway_plugins.stored_responses.turns import not_found, owner_of

_encode = msgspec.json.Encoder().encode

MAX_AT_ONCE = 20
"""Items that one request may add, as at OpenAI."""

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]


class _New(msgspec.Struct):
    items: list[Raw] | None = None
    metadata: Metadata | None = None


class _Items(msgspec.Struct):
    items: list[Raw]


class _Update(msgspec.Struct):
    metadata: Metadata | None = None


class _Conversation(msgspec.Struct):
    id: str
    created_at: int
    metadata: Mapping[str, str]
    object: str = "conversation"


class Conversations:
    """Answers the calls about conversations."""

    def __init__(self, gateway: Host, options: Options) -> None:
        self.options = options
        self._storage = gateway.storage

    async def answer(self, call: Call, id_: str, rest: str) -> Answer:
        """Raises NotFound for what is not there, or is another key's."""
        if not id_:
            return await self._create(call)
        owner = owner_of(call)
        holder = await self._storage.read(lambda db: rows.find(db, owner, "conversation", id_))
        if holder is None:
            raise not_found(id_, "conversation_id", "Conversation")
        part, _, item_id = rest.partition("/")
        if not part:
            return await self._itself(call, holder)
        if part == "items":
            return await self._items(call, holder, item_id)
        raise not_found(rest, None, "Part of a conversation")

    async def _create(self, call: Call) -> Answer:
        _check(call, "POST")
        asked = await showing.read_body(call, _New)
        items = _kept(asked.items or [])
        id_, now = f"conv_{uuid.uuid4().hex}", time.time()
        shown = _Conversation(id_, int(now), asked.metadata or {})
        new = rows.NewHolder(
            owner=owner_of(call),
            id=id_,
            kind="conversation",
            created=now,
            session=call.session_id or id_,
            body=_encode(shown),
        )

        def create(db: Database) -> None:
            number = rows.add(db, new)
            rows.add_items(db, number, new.owner, items, outputs=False)

        await self._storage.write(create)
        return showing.json(new.body)

    async def _itself(self, call: Call, holder: rows.Holder) -> Answer:
        _check(call, "GET", "POST", "DELETE")
        if call.method == "DELETE":
            await self._storage.write(lambda db: rows.delete(db, [holder.number]))
            return showing.deleted(holder.id, "conversation.deleted")
        if call.method == "POST":
            return await self._update(call, holder)
        return showing.json(holder.body)

    async def _update(self, call: Call, holder: rows.Holder) -> Answer:
        asked = await showing.read_body(call, _Update)
        shown = _Conversation(holder.id, int(holder.created), asked.metadata or {})
        body = _encode(shown)
        await self._storage.write(lambda db: rows.set_body(db, holder.number, body, holder.status))
        return showing.json(body)

    async def _items(self, call: Call, holder: rows.Holder, id_: str) -> Answer:
        if id_:
            _check(call, "GET", "DELETE")
            return await self._item(call, holder, id_)
        _check(call, "GET", "POST")
        if call.method == "POST":
            return await self._add(call, holder)
        wanted = showing.page_of(showing.query_of(call))
        found = await self._storage.read(
            lambda db: rows.page(db, holder.number, wanted, inputs_only=False)
        )
        return showing.listed(found, wanted.limit)

    async def _add(self, call: Call, holder: rows.Holder) -> Answer:
        items = _kept((await showing.read_body(call, _Items)).items)
        most = self.options.max_items

        def add(db: Database) -> None:
            if rows.count_items(db, holder.number) + len(items) > most:
                raise BadRequest(f"a conversation has at most {most} items (max_items)")
            rows.add_items(db, holder.number, holder.owner, items, outputs=False)
            rows.use(db, holder.number, time.time())

        await self._storage.write(add)
        return showing.listed(items, len(items))

    async def _item(self, call: Call, holder: rows.Holder, id_: str) -> Answer:
        data = await self._storage.read(lambda db: rows.item(db, holder.number, id_))
        if data is None:
            raise not_found(id_, "item_id", "Item")
        if call.method == "GET":
            return showing.json(data)
        await self._storage.write(lambda db: rows.delete_item(db, holder.number, id_))
        return showing.json(holder.body)


def _kept(items: list[Raw]) -> list[KeptItem]:
    if len(items) > MAX_AT_ONCE:
        raise BadRequest(f"a request adds at most {MAX_AT_ONCE} items", param="items")
    try:
        kept = output_items(b"[%b]" % b",".join(items))
        read_items([one.data for one in kept])  # as each turn will
    except Untranslatable as error:
        raise BadRequest(error.reason, param="items") from None
    return kept


def _check(call: Call, *methods: str) -> None:
    if call.method not in methods:
        raise BadRequest(f"{call.method} is none of {', '.join(methods)} here")
