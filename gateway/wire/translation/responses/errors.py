"""Errors of a call: OpenAI's envelope, in which Responses has other names of fields than chat."""

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.error_body import error_message

_NAMES = {
    "messages": "input",
    "body.messages": "body.input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}


class Failure(msgspec.Struct):
    """The error of a response that failed."""

    code: str
    message: str


class _Error(msgspec.Struct):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class _Envelope(msgspec.Struct):
    error: _Error


class _Any(msgspec.Struct):
    error: object = None


_decode = msgspec.json.Decoder(_Envelope).decode
_decode_any = msgspec.json.Decoder(_Any).decode
encode = msgspec.json.Encoder().encode


def refusal(body: bytes) -> bytes:
    """Return an error's body with the names of Responses; one that cannot be read as it is."""
    try:
        found = _decode(body)
    except NOT_JSON:
        return body
    name = _NAMES.get(found.error.param or "")
    if name is None:
        return body
    error, old = found.error, found.error.param or ""
    error.message, error.param = error.message.replace(old, name), name
    return encode(found)


def failure_of(error: bytes) -> tuple[Failure, bytes]:
    """Return an error in mid stream as the failure of a response, and as an `error` event's data.

    The data has no sequence number; it has the error as an object too, for which clients raise.
    """
    try:
        known = _decode(b'{"error":%b}' % error).error
    except NOT_JSON:
        known = _Error(_message(error), "server_error")
    code = known.code if isinstance(known.code, str) else (known.type or "server_error")
    data = _EventData(code, known.message, known.param, known)
    return Failure(code, known.message), encode(data)


class _EventData(msgspec.Struct):
    code: str
    message: str
    param: str | None
    error: _Error
    type: str = "error"


def _message(error: bytes) -> str:
    try:
        return error_message(_decode_any(b'{"error":%b}' % error).error) or "The response failed."
    except NOT_JSON:
        return "The response failed."
