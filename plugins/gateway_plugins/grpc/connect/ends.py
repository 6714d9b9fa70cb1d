"""How an RPC ended, as each protocol writes it."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from google.protobuf import json_format

from gateway_plugins.grpc.connect.formats import frame
from gateway_plugins.grpc.details import details_of, trailers
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import Code, Status

LAST, TRAILERS = 0x02, 0x80
"""The flag of a stream's last message, in Connect and in gRPC-Web."""

UNHARMED = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
"""What `grpc-message` has as it is, beside letters and digits."""

HTTP_STATUS: Mapping[Code, int] = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""Connect's table: https://connectrpc.com/docs/protocol#error-codes."""


class Detail(msgspec.Struct):
    """One detail of an error: `value` is the message in base64, `debug` the same as JSON."""

    type: str
    value: str
    debug: dict[str, Any]


class Error(msgspec.Struct, omit_defaults=True):
    """An error as Connect writes it."""

    code: str
    message: str = ""
    details: list[Detail] = []


class End(msgspec.Struct, omit_defaults=True):
    """The last message of a stream."""

    error: Error | None = None
    metadata: dict[str, list[str]] = {}


def error_of(messages: Messages, status: Status) -> Error:
    """Return a status other than OK as Connect's error."""
    details = [
        Detail(f"google.rpc.{name}", _base64(detail), _readable(messages, name, detail))
        for name, detail in details_of(messages, status)
    ]
    code = "canceled" if status.code is Code.CANCELLED else status.code.name.lower()
    return Error(code, status.message, details)


def last_of_connect(messages: Messages, status: Status, sent: int) -> bytes:
    """Return the last message of a stream that had `sent` messages."""
    error = None if status.code is Code.OK else error_of(messages, status)
    lines = _lines(messages, status, sent)
    metadata = {name: [value] for name, value in lines if not name.startswith("grpc-")}
    return frame(msgspec.json.encode(End(error, metadata)), LAST)


def last_of_web(messages: Messages, status: Status, sent: int) -> bytes:
    """Return the trailers of a response that had `sent` messages."""
    lines = [("grpc-status", str(int(status.code)))]
    if status.message:
        lines.append(("grpc-message", quote(status.message, safe=UNHARMED)))
    lines += _lines(messages, status, sent)
    block = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return frame(block.encode("latin-1"), TRAILERS)


def _lines(messages: Messages, status: Status, sent: int) -> Iterable[tuple[str, str]]:
    for name, value in trailers(messages, status, sent):
        yield name, value if isinstance(value, str) else _base64(value)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _readable(messages: Messages, name: str, detail: bytes) -> dict[str, Any]:
    message = messages.type(f"google.rpc.{name}").FromString(detail)
    found: dict[str, Any] = json_format.MessageToDict(message)
    return found
