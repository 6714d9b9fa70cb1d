"""What an HTTP request asks for: the message in its body, its metadata, and its deadline."""

import asyncio
import re
import zlib
from collections.abc import Callable

from starlette.types import Receive, Scope

from gateway import (
    BadRequest,
    BodyTooLarge,
    CallError,
    Config,
    ControlRequest,
    Headers,
    get_header,
)
from gateway_plugins.grpc.connect.formats import GRPC_WEB, HEAD, Format
from gateway_plugins.grpc.edge.context import Metadata

COMPRESSED = 1
"""The flag of a compressed message, and the only one of a request."""

CODINGS = frozenset((b"", b"identity", b"gzip"))

OF_HTTP = re.compile(
    r"connect-.*|content-encoding|transfer-encoding|expect|upgrade|keep-alive|origin|referer|cookie"
    r"|sec-.*|x-grpc-web|x-user-agent"
)
"""Headers that are no metadata of the RPC."""

MILLISECONDS = re.compile(rb"\d{1,10}")
GRPC_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


LARGE = 256 * 1024
"""Bytes of a message from which on a thread decodes it: the event loop has other callers."""


class UnknownCoding(CallError):
    """The request is compressed in a way that the gateway does not know."""

    status = 501
    code = "not_supported"


class Incoming:
    """The one message of a request. `left` is called if the caller leaves once it was read.

    `decode` turns the message into protobuf's encoding, and may raise BadRequest.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        format_: Format,
        settings: Config,
        decode: Callable[[bytes], bytes],
    ) -> None:
        self.left: Callable[[], None] = _nothing
        self._headers: Headers = scope["headers"]
        self._request = ControlRequest(scope, receive, params={}, principal=None, settings=settings)
        self._receive = receive
        self._format = format_
        self._limit = settings.server_limits.max_body_bytes
        self._decode = decode
        self._watching: asyncio.Task[None] | None = None

    async def read(self) -> bytes:
        """Return the message. Raises CallError, CallerGone."""
        body = b"".join([chunk async for chunk in self._request.stream(self._limit)])
        self._watching = asyncio.create_task(self._watch())
        message = await message_of(body, self._headers, self._format, self._limit)
        if len(message) >= LARGE:
            return await asyncio.to_thread(self._decode, message)
        return self._decode(message)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left()

    def close(self) -> None:
        """Call `left` no more."""
        self.left = _nothing
        if self._watching is not None:
            self._watching.cancel()


def metadata_of(headers: Headers) -> Metadata:
    """Return the metadata of the RPC."""
    found = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return tuple(line for line in found if not OF_HTTP.fullmatch(line[0]))


def seconds_of(headers: Headers, frontend: str) -> float | None:
    """Return how long the caller waits; None: for any time. Raises BadRequest."""
    if frontend == GRPC_WEB:
        value = get_header(headers, b"grpc-timeout")
        if value is None:
            return None
        found = GRPC_TIMEOUT.fullmatch(value)
        if found is None:
            raise BadRequest("grpc-timeout: expected up to 8 digits and a unit of HMSmun")
        return int(found[1]) * UNITS[found[2]]
    value = get_header(headers, b"connect-timeout-ms")
    if value is None:
        return None
    if MILLISECONDS.fullmatch(value) is None:
        raise BadRequest("connect-timeout-ms: expected up to 10 digits")
    return int(value) / 1000


async def message_of(body: bytes, headers: Headers, format_: Format, limit: int) -> bytes:
    """Return the message in a request's body, in the format's own encoding.

    `limit` is its maximum size in bytes. Raises BadRequest, BodyTooLarge, UnknownCoding.
    """
    whole = limit + HEAD.size if format_.framed else limit
    body = await _inflated(body, _coding(headers, b"content-encoding"), whole)
    if not format_.framed:
        return body
    flags, message = _only_message(body)
    coding = _coding(headers, format_.message_coding)
    if flags == COMPRESSED and coding != b"gzip":
        raise BadRequest(
            f"a message is compressed, and no {format_.message_coding.decode()} is set"
        )
    return await _inflated(message, coding if flags else b"", limit)


def _coding(headers: Headers, name: bytes) -> bytes:
    found = (get_header(headers, name) or b"").strip().lower()
    if found not in CODINGS:
        raise UnknownCoding(f"{name.decode()}: the gateway knows gzip and identity")
    return found


def _only_message(body: bytes) -> tuple[int, bytes]:
    """Return the flags and the data of the one message. Raises BadRequest."""
    if len(body) < HEAD.size:
        raise BadRequest("the request has no message")
    flags, size = HEAD.unpack_from(body)
    if flags not in (0, COMPRESSED):
        raise BadRequest(f"the message of a request has the flags {flags}")
    if len(body) != HEAD.size + size:
        raise BadRequest("the request is not exactly one message: the method takes one")
    return flags, body[HEAD.size :]


async def _inflated(data: bytes, coding: bytes, limit: int) -> bytes:
    if coding != b"gzip" or not data:
        return data
    # In a thread: a few kilobytes may become as much as the limit allows.
    return await asyncio.to_thread(_gunzip, data, limit)


def _gunzip(data: bytes, limit: int) -> bytes:
    inflating = zlib.decompressobj(wbits=31)
    try:
        found = inflating.decompress(data, limit + 1)
    except zlib.error:
        raise BadRequest("the request is not valid gzip") from None
    if len(found) > limit:
        raise BodyTooLarge(f"the request is larger than {limit} bytes once it is decompressed")
    if not inflating.eof or inflating.unused_data:
        raise BadRequest("the request is not exactly one gzip stream")
    return found


def _nothing() -> None: ...
