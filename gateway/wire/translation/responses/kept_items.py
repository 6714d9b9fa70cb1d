"""Items of inputs and outputs as they are kept and shown: each with an id, and with its type."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.wire import surrogates
from gateway.wire.translation.responses.response.output import new_id
from gateway.wire.translation.responses.structs import Item
from gateway.wire.translation.translation import Untranslatable

_PREFIXES = {
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}

_Fields = dict[str, Raw]


class _Input(msgspec.Struct):
    input: str | list[_Fields] = msgspec.field(default_factory=list)


_encode = msgspec.json.Encoder().encode
_decode_input = msgspec.json.Decoder(_Input).decode
_decode_list = msgspec.json.Decoder(list[_Fields]).decode
_decode_items = msgspec.json.Decoder(list[Item]).decode


class KeptItem(msgspec.Struct, frozen=True):
    """An item, and its id. `data` is its JSON."""

    id: str
    data: bytes


def input_items(body: bytes) -> list[KeptItem]:
    """Return the items of the input of a request with `body`. Raises Untranslatable."""
    if surrogates.may_have_half(body):
        body = surrogates.readable(body)
    try:
        given = _decode_input(body).input
        if isinstance(given, str):
            given = [{"role": Raw(b'"user"'), "content": Raw(_encode(given))}]
        return [_kept(item) for item in given]
    except NOT_JSON as error:
        raise Untranslatable(f"it has no items: {error}", invalid=True) from None


def output_items(output: bytes) -> list[KeptItem]:
    """Return the items of a list in JSON: the output of a response, or items of a request.

    Raises Untranslatable.
    """
    try:
        return [_kept(item) for item in _decode_list(output)]
    except NOT_JSON as error:
        raise Untranslatable(f"it has no items: {error}", invalid=True) from None


def read_items(kept: Sequence[bytes]) -> list[Item]:
    """Return the items whose JSON was kept, for the history of a request.

    Raises Untranslatable.
    """
    try:
        return _decode_items(b"[%b]" % b",".join(kept))
    except NOT_JSON as error:
        raise Untranslatable(f"it has no items: {error}", invalid=True) from None


def _kept(fields: _Fields) -> KeptItem:
    kind = _text(fields.get("type")) or "message"
    id_ = _text(fields.get("id")) or new_id(_PREFIXES.get(kind, "msg")).decode()
    fields = {**fields, "id": Raw(_encode(id_)), "type": Raw(_encode(kind))}
    if kind == "message":
        _fill_message(fields)
    return KeptItem(id_, _encode(fields))


def _fill_message(fields: _Fields) -> None:
    """Give a message the list of parts that a text stands for, and a status."""
    content, status = fields.get("content"), fields.get("status")
    if content is not None and bytes(content)[:1] == b'"':
        said = _text(fields.get("role")) == "assistant"
        part = b'{"type":"output_text","annotations":[],"text":%b}'
        if not said:
            part = b'{"type":"input_text","text":%b}'
        fields["content"] = Raw(b"[%b]" % (part % bytes(content)))
    if status is None or bytes(status) == b"null":
        fields["status"] = Raw(b'"completed"')


def _text(value: Raw | None) -> str | None:
    """Return a JSON string's text; None if `value` is none or anything else."""
    if value is None or bytes(value)[:1] != b'"':
        return None
    return msgspec.json.decode(value, type=str)
