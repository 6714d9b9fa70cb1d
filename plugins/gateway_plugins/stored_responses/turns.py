"""One response that is to be kept: what it follows, its translation, and its rows at the end."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import (
    BadRequest,
    Call,
    Database,
    KeptItem,
    NotFound,
    ResponsesRequest,
    ResponsesTranslator,
    StateKey,
    Storage,
    Translation,
    carry_response,
    input_items,
    output_items,
    read_items,
)
from gateway_plugins.stored_responses import rows
from gateway_plugins.stored_responses.options import Options

_encode = msgspec.json.Encoder().encode


class Turn(msgspec.Struct, kw_only=True, eq=False):
    """A response and what it was made of. `previous` and `conversation` are what it follows.

    `items` are those of the request's input. `is_kept`: the response is kept once it has ended.
    """

    owner: str
    items: list[KeptItem]
    session: str
    translation: Translation
    translator: ResponsesTranslator
    previous: rows.Holder | None = None
    conversation: rows.Holder | None = None
    is_kept: bool = True
    has_events: bool = False
    is_stored: bool = False

    @property
    def id(self) -> str:
        return self.translator.response.id

    def body(self) -> bytes:
        """Return the JSON of the response as it is now."""
        return _encode(self.translator.response)


TURN = StateKey[Turn]("stored_responses")


class _Before(msgspec.Struct, kw_only=True):
    previous: rows.Holder | None = None
    conversation: rows.Holder | None = None
    items: list[bytes] = []
    referenced: dict[str, bytes] = {}


def owner_of(call: Call) -> str:
    return call.principal.id if call.principal is not None else ""


def refers(request: ResponsesRequest) -> bool:
    """Whether items of the input stand for items that are kept."""
    items = request.input
    return not isinstance(items, str) and any(one.type == "item_reference" for one in items)


def not_found(id_: str, param: str | None = "response_id", what: str = "Response") -> NotFound:
    return NotFound(f"{what} with id '{id_}' not found.", param=param)


async def begin(
    storage: Storage, options: Options, call: Call, request: ResponsesRequest, body: bytes
) -> Turn:
    """Return the turn of a request; raises NotFound, BadRequest and Untranslatable."""
    if request.previous_response_id is not None and request.conversation is not None:
        words = "previous_response_id and conversation exclude each other"
        raise BadRequest(words, param="previous_response_id")
    owner = owner_of(call)
    items = input_items(body)
    before = await storage.read(lambda db: _before(db, owner, options, request, items))
    items = [_resolved(item, before) for item in items]
    request.input = read_items([item.data for item in items])
    request.request_id = None
    kept = options.store_by_default if request.store is None else request.store
    translation = carry_response(request, read_items(before.items), stored=kept)
    translator = translation.response
    assert isinstance(translator, ResponsesTranslator)
    call.session_id = call.session_id or _session(before) or translator.response.id
    return Turn(
        owner=owner,
        items=items,
        session=call.session_id,
        translation=translation,
        translator=translator,
        previous=before.previous,
        conversation=before.conversation,
        is_kept=kept,
        has_events=bool(request.background and request.stream),
    )


def _session(before: _Before) -> str | None:
    holder = before.conversation or before.previous
    return None if holder is None else holder.session


def _before(
    db: Database, owner: str, options: Options, request: ResponsesRequest, items: list[KeptItem]
) -> _Before:
    found = _Before(referenced=_referenced(db, owner, items))
    try:
        if (id_ := request.previous_response_id) is not None:
            found.previous = _previous(db, owner, id_)
            found.items = rows.history(db, found.previous, options.max_items)
        if (id_ := conversation_id(request)) is not None:
            found.conversation = rows.find(db, owner, "conversation", id_)
            if found.conversation is None:
                raise not_found(id_, "conversation", "Conversation")
            found.items = rows.items_of(db, found.conversation.number, options.max_items)
    except rows.HistoryGone as gone:
        param = "conversation" if found.conversation else "previous_response_id"
        raise BadRequest(f"{id_} cannot be continued: {gone}", param=param) from None
    return found


def conversation_id(request: ResponsesRequest) -> str | None:
    named = request.conversation
    return named if named is None or isinstance(named, str) else named.id


def _previous(db: Database, owner: str, id_: str) -> rows.Holder:
    holder = rows.find(db, owner, "response", id_)
    if holder is None:
        raise not_found(id_, "previous_response_id", "Previous response")
    if holder.runs and not holder.died(time.time()):
        raise BadRequest(f"{id_} has not ended yet", param="previous_response_id")
    return holder


def _referenced(db: Database, owner: str, items: list[KeptItem]) -> dict[str, bytes]:
    found = {}
    for item in items:
        if b'"type":"item_reference"' in item.data:
            data = rows.referenced(db, owner, item.id)
            if data is None:
                raise not_found(item.id, "input", "Item")
            found[item.id] = data
    return found


def _resolved(item: KeptItem, before: _Before) -> KeptItem:
    data = before.referenced.get(item.id)
    return item if data is None else KeptItem(item.id, data)


class TurnSink:
    """A gateway Sink that stores turns that have ended, in the transaction of their calls."""

    def prepare(self, db: Database, item: Turn) -> Any:
        return item, item.body(), time.time()

    def write(self, db: Database, rows: Sequence[Any]) -> None:
        for turn, body, now in rows:
            store(db, turn, body, now)

    def written(self, rows: Sequence[Any]) -> None:
        for turn, _, _ in rows:
            turn.is_stored = True

    def lost(self, item: Any, error: Exception) -> None: ...


def store(db: Database, turn: Turn, body: bytes, now: float) -> None:
    """Store a turn that has ended: its response, and the items of both."""
    response = turn.translator.response
    number = add_row(db, turn, body, response.status)
    outputs = output_items(bytes(response.output))
    rows.add_items(db, number, turn.owner, outputs, outputs=True)
    if turn.conversation is not None and response.status in ("completed", "incomplete"):
        _add_to(db, turn.conversation, turn.items, outputs)
    if turn.previous is not None:
        rows.use(db, turn.previous.root or turn.previous.number, now)
    if turn.conversation is not None:
        rows.use(db, turn.conversation.number, now)


def _add_to(
    db: Database, there: rows.Holder, inputs: list[KeptItem], outputs: list[KeptItem]
) -> None:
    """Add the items of a turn to its conversation, unless that was deleted meanwhile."""
    if rows.find(db, there.owner, "conversation", there.id) is not None:
        rows.add_items(db, there.number, there.owner, inputs, outputs=False)
        rows.add_items(db, there.number, there.owner, outputs, outputs=True)


def add_row(db: Database, turn: Turn, body: bytes, status: str) -> int:
    """Add or update the row of a turn, and add the items of its input; return its number."""
    previous, response = turn.previous, turn.translator.response
    new = rows.NewHolder(
        owner=turn.owner,
        id=turn.id,
        kind="response",
        created=float(response.created_at),
        session=turn.session,
        body=body,
        status=status,
        previous=None if previous is None else previous.number,
        root=None if previous is None else previous.root or previous.number,
        is_background=response.background,
        has_events=turn.has_events,
    )
    number = rows.add(db, new)
    if turn.items and not rows.count_items(db, number):
        rows.add_items(db, number, turn.owner, turn.items, outputs=False)
    return number
