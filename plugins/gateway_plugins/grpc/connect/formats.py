"""The content types, and what each says of the messages."""

import struct

import msgspec

from gateway import Headers, get_header

CONNECT, GRPC_WEB = "connect", "grpc-web"

HEAD = struct.Struct(">BI")
"""What stands before each message of a framed body: flags, and the size of the message in bytes."""


class Format(msgspec.Struct, frozen=True):
    """How a body has messages. `framed`: each behind a HEAD; else the body is the one message.

    `frontend` names the protocol, `is_json` the encoding of the messages.
    """

    content_type: str
    frontend: str
    framed: bool
    is_json: bool = False

    @property
    def message_coding(self) -> bytes:
        """Name of the header that says how messages are compressed."""
        return b"grpc-encoding" if self.frontend == GRPC_WEB else b"connect-content-encoding"


UNARY = (
    Format("application/json", CONNECT, framed=False, is_json=True),
    Format("application/proto", CONNECT, framed=False),
)
STREAM = (
    Format("application/connect+json", CONNECT, framed=True, is_json=True),
    Format("application/connect+proto", CONNECT, framed=True),
)
WEB = (
    Format("application/grpc-web", GRPC_WEB, framed=True),
    Format("application/grpc-web+proto", GRPC_WEB, framed=True),
    Format("application/grpc-web+json", GRPC_WEB, framed=True, is_json=True),
)


def formats(*, streams: bool) -> dict[str, Format]:
    """Return the formats of a method by content type; `streams`: its response is a stream."""
    found = (*(STREAM if streams else UNARY), *WEB)
    return {one.content_type: one for one in found}


def content_type(headers: Headers) -> str:
    """Return the media type of a request, without parameters."""
    value = get_header(headers, b"content-type") or b""
    return value.partition(b";")[0].strip().lower().decode("latin-1")


def frame(data: bytes, flags: int = 0) -> bytes:
    """Return a message with its head."""
    return HEAD.pack(flags, len(data)) + data
