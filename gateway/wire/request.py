"""The fields of a request that matter to the gateway, read from its body. Nothing here raises.

The functions take the fields that a kernel has read, if it was sure of the body, and decode only
what these do not tell.
"""

import contextlib
import re

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.kernel.interface import Field, Fields

_FALSE = frozenset((b"", b"false", b"null"))
_LIST = ord("[")
_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of")
NESTED = "sampling_params"
"""Field of a request that holds its parameters, in an API of token ids."""

_PROMPT = (b'"', b"[")
"""How a prompt begins in a list of them: as a text, or as a list."""

_is_ids = re.compile(rb"\[[ \t\r\n]*\d").match
_is_lists_of_ids = re.compile(rb"\[[ \t\r\n]*\[[ \t\r\n]*\d").match


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """The requested model, and whether vLLM would respond with an event stream.

    `several` is False if the request is certainly for one choice of one prompt, see `has_several`.
    """

    model: str | None = None
    streams: bool = False
    several: bool = False


class _Head(msgspec.Struct, gc=False):
    model: str | None = None
    stream: Raw = Raw()
    n: Raw = Raw()
    prompt: Raw = Raw()
    sampling_params: Raw = Raw()


class RequestBounds(msgspec.Struct, gc=False):
    """Fields that bound the size of a response. A field of another type counts as left out.

    `sampling_params` has bounds of its own in vLLM's API of token ids.
    """

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    sampling_params: Raw = Raw()


class _Several(msgspec.Struct, gc=False):
    n: Raw = Raw()
    prompt: Raw = Raw()


class Prompts(msgspec.Struct, frozen=True, gc=False):
    """The prompts of a request: how many, and their tokens if they are token ids, else 0."""

    count: int = 1
    token_ids: int = 0


ONE_PROMPT = Prompts()

_read_head = msgspec.json.Decoder(_Head).decode
_read_bounds = msgspec.json.Decoder(RequestBounds, strict=False).decode  # engines accept "5" for 5
_read_several = msgspec.json.Decoder(_Several).decode
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_read_number = msgspec.json.Decoder(int, strict=False).decode
_read_list = msgspec.json.Decoder(list[Raw]).decode


def read_head(body: bytes, fields: Fields | None = None) -> RequestHead:
    """Return the head of a request; one that says nothing if `body` cannot be read."""
    if fields is None:
        return _decoded_head(body)
    model, stream = fields.get("model"), fields.get("stream")
    if type(model) is tuple or type(stream) is tuple:  # the fields have only its place
        return _decoded_head(body)
    if model is not None and type(model) is not str:
        return RequestHead(several=True)
    several = (
        ("n" in fields and _is_several(fields["n"]))
        or ("prompt" in fields and _is_list_at(body, fields["prompt"]))
        or NESTED in fields
    )
    return RequestHead(model, stream is not None and is_true(stream), several)


def _is_several(n: Field) -> bool:
    """Whether `n` is, or may be, for more than one choice."""
    return n is not None and (type(n) is not int or n > 1)


def _is_list_at(body: bytes, field: Field) -> bool:
    return type(field) is tuple and body[field[0]] == _LIST


def _decoded_head(body: bytes) -> RequestHead:
    try:
        head = _read_head(body)
        several = bool(head.n) or _is_list(head.prompt) or bool(head.sampling_params)
        stream = bytes(head.stream)
        if stream in _FALSE:
            return RequestHead(head.model, False, several)
        streams = stream == b"true" or is_true(msgspec.json.decode(stream))
        return RequestHead(head.model, streams, several)
    except NOT_JSON:
        return RequestHead(several=True)


def read_bounds(
    body: bytes, fields: Fields | None = None, *, nested: bool = False
) -> RequestBounds:
    """Return the bounds of a request; none if `body` is no JSON object: the worker rejects it.

    `nested`: they are in its `sampling_params`.
    """
    known = None if nested or fields is None else _bounds_of(fields)
    return _decoded_bounds(body, nested=nested) if known is None else known


def _bounds_of(fields: Fields) -> RequestBounds | None:
    """Return the bounds that the fields tell of; None if one of them is not simply a number."""
    bounds = RequestBounds()
    for name, value in fields.items():
        if name in _BOUNDS and value is not None:
            if type(value) is not int:
                return None
            setattr(bounds, name, value)
    return bounds


def _decoded_bounds(body: bytes, *, nested: bool) -> RequestBounds:
    try:
        bounds = _read_bounds(body)
    except NOT_JSON:
        bounds = _single_bounds(_fields_of(body))
    return read_bounds(bytes(bounds.sampling_params)) if nested else bounds


def read_prompts(body: bytes, field: str, fields: Fields | None = None) -> Prompts:
    """Return the prompts in `field` of a request: one, or a list of texts or of lists.

    A list of numbers is one prompt of token ids. Such lists are long, so they are not decoded.
    """
    written = _written(body, field, fields)
    if not written.startswith(b"["):
        return ONE_PROMPT
    if _is_ids(written):
        return Prompts(1, written.count(b",") + 1)
    if _is_lists_of_ids(written):
        return Prompts(written.count(b"[") - 1, written.count(b",") + 1)
    try:
        parts = [bytes(part) for part in _read_list(written)]
    except NOT_JSON:
        return ONE_PROMPT
    prompts = [part for part in parts if part[:1] in _PROMPT]
    if not prompts:
        return ONE_PROMPT
    return Prompts(len(prompts), sum(one.count(b",") + 1 for one in prompts if _is_ids(one)))


def _written(body: bytes, field: str, fields: Fields | None) -> bytes:
    if fields is None:
        return bytes(_fields_of(body).get(field, b""))
    place = fields.get(field)
    return body[place[0] : place[1]] if type(place) is tuple else b""


def has_several(body: bytes) -> bool:
    """Whether a request is for more than one choice, or has more than one prompt.

    Decoding two fields takes less time than a search for the name of one: most bodies have many
    quotation marks.
    """
    try:
        found = _read_several(body)
    except NOT_JSON:
        return False
    if found.n and (read_bounds(body).n or 1) > 1:
        return True
    return _is_list(found.prompt) and read_prompts(body, "prompt").count > 1


def _is_list(written: Raw) -> bool:
    return bool(written) and memoryview(written)[0] == _LIST


def echoes(body: bytes) -> bool:
    """Whether a request asks for its prompt back, as the first part of a completion."""
    if b'"echo"' not in body:
        return False
    try:
        return is_true(msgspec.json.decode(_fields_of(body).get("echo", b"null")))
    except NOT_JSON:
        return False


def _fields_of(body: bytes) -> dict[str, Raw]:
    try:
        return _read_fields(body)
    except NOT_JSON:
        return {}


def _single_bounds(fields: dict[str, Raw]) -> RequestBounds:
    """Return the bounds field by field: one odd field takes nothing from the others."""
    bounds = RequestBounds(sampling_params=fields.get("sampling_params", Raw()))
    for name in _BOUNDS:
        with contextlib.suppress(*NOT_JSON):
            setattr(bounds, name, _read_number(fields.get(name, b"0")) or None)
    return bounds


def is_true(value: object) -> bool:
    """Whether a worker takes `value` as true: pydantic accepts strings, and rejects other types."""
    if value is None or value is False:
        return False
    if isinstance(value, str):
        return value.lower() not in ("0", "off", "f", "false", "n", "no")
    return value != 0
