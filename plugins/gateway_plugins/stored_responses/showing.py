"""Answers about what is kept: objects, lists of items, and errors."""

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw

from gateway import NOT_JSON, Answer, BadRequest, Call, KeptItem
from gateway_plugins.stored_responses.rows import Holder, Page

T = TypeVar("T")

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")

_encode = msgspec.json.Encoder().encode

MAX_FIELDS = 100
"""Fields of a query that are read."""

_DIED = Raw(b'{"code":"server_error","message":"The gateway that ran this response has stopped."}')


class _Deleted(msgspec.Struct):
    id: str
    object: str
    deleted: bool = True


class _List(msgspec.Struct, kw_only=True):
    data: list[Raw]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


def json(body: bytes) -> Answer:
    return Answer(200, [_JSON, (b"content-length", b"%d" % len(body))], body)


EVENT_HEADERS = [_EVENTS]


def deleted(id_: str, what: str) -> Answer:
    return json(_encode(_Deleted(id_, what)))


def listed(items: Sequence[KeptItem], limit: int) -> Answer:
    """Answer with at most `limit` items; if there is one more, it says so."""
    shown = items[:limit]
    made = _List(
        data=[Raw(one.data) for one in shown],
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(items) > limit,
    )
    return json(_encode(made))


def shown(holder: Holder, now: float) -> Answer:
    """Answer with a response as it is kept; one whose process has died has failed."""
    if not holder.runs:
        return json(holder.body)
    return json(failed_body(holder) if holder.died(now) else with_status(holder, holder.status))


def with_status(holder: Holder, status: str) -> bytes:
    fields = msgspec.json.decode(holder.body, type=dict[str, Raw])
    return _encode({**fields, "status": Raw(_encode(status))})


def failed_body(holder: Holder) -> bytes:
    """Return the body of a response whose process has died."""
    fields = msgspec.json.decode(holder.body, type=dict[str, Raw])
    return _encode({**fields, "status": Raw(b'"failed"'), "error": _DIED})


def query_of(call: Call) -> Mapping[str, str]:
    """Return the fields of the query. Raises BadRequest."""
    try:
        text = call.query.decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise BadRequest(f"the query cannot be read: {error}") from None


def number(query: Mapping[str, str], name: str, default: int) -> int:
    """Return a number of the query. Raises BadRequest."""
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest(f"{name} is a number that is not negative", param=name)
    return int(text)


def page_of(query: Mapping[str, str]) -> Page:
    """Return the page of items that a query asks for. Raises BadRequest."""
    limit, order = number(query, "limit", 20), query.get("order", "desc")
    if not 1 <= limit <= 100:
        raise BadRequest("limit is between 1 and 100", param="limit")
    if order not in ("asc", "desc"):
        raise BadRequest("order is asc or desc", param="order")
    return Page(limit, newest_first=order == "desc", after=query.get("after"))


async def read_body(call: Call, type_: type[T]) -> T:
    """Return the JSON body of a request, `{}` for an empty one. Raises BadRequest."""
    body = await call.body.read()
    try:
        return msgspec.json.decode(body or b"{}", type=type_)
    except NOT_JSON as error:
        raise BadRequest(f"the body cannot be read: {error}") from None
