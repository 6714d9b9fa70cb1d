"""The body of a request: read whole if any part asks for it, else forwarded as it arrives."""

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any

import msgspec
from starlette.types import Receive

from gateway.errors import NOT_JSON, BodyTimeout, BodyTooLarge, CallerGone, InvalidJSON
from gateway.headers import Headers, get_header
from gateway.kernel import Kernel
from gateway.kernel.interface import Fields
from gateway.wire.surrogates import lone_half, may_have_half, readable

_OBJECT = re.compile(rb"[ \t\r\n]*\{")

BYTES_PER_TOKEN = 4
"""Estimated bytes of a request body per token, as in English text."""

Source = Callable[[], Awaitable[tuple[bytes, bool]]]
"""Returns the next chunk, and whether more follows. Raises CallerGone, BodyTimeout."""


LEFT_EARLY = "the caller left while it sent its request"


async def receive_chunk(receive: Receive, idle_timeout: float | None) -> tuple[bytes, bool]:
    """Return the next chunk of a request's body from ASGI's `receive`, and whether more follows.

    Raises BodyTimeout if nothing arrives for `idle_timeout` seconds (`timeouts.idle`), CallerGone.
    """
    try:
        async with asyncio.timeout(idle_timeout):
            message = await receive()
    except TimeoutError:
        raise stalled(idle_timeout) from None
    if message["type"] == "http.disconnect":
        raise CallerGone(LEFT_EARLY)
    return message.get("body", b""), message.get("more_body", False)


def stalled(idle_timeout: float | None) -> BodyTimeout:
    return BodyTimeout(f"nothing more of the body came for {idle_timeout} s")


class Body:
    """A request body. `data` is the whole body once it has been read, None before.

    `readable` is `data` for those who parse it: the same, but that a lone half of a surrogate pair
    in it is U+FFFD (see gateway.wire.surrogates). Workers get `data`.
    `length` is its size in bytes, None if it is unknown before reading. `limit` is the maximum size
    in bytes: reading more raises BodyTooLarge. `announces_too_much`: the length that was known
    before reading is above it. `may_have_several`: it may ask for several choices, or have several
    prompts. `kernel` reads the fields; None if there is none, or once it has done so. `waited` is
    the seconds that whoever reads it whole has waited for it.
    """

    __slots__ = (
        "_begun",
        "_fields",
        "_limit",
        "_more",
        "_source",
        "announces_too_much",
        "data",
        "kernel",
        "length",
        "may_have_several",
        "readable",
        "waited",
    )

    def __init__(
        self,
        data: bytes | None = None,
        *,
        source: Source | None = None,
        length: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.data = self.readable = data
        self.length = length = length if data is None else len(data)
        if data is not None and b"\\" in data and may_have_half(data):
            self.readable = readable(data)
        self.announces_too_much = limit is not None and length is not None and length > limit
        self.may_have_several = True  # until its head is read
        self.kernel: Kernel | None = None
        self._fields: Fields | None = None
        self._source = source
        self._limit = limit
        self._begun = b""
        self._more = data is None
        self.waited = 0.0

    @property
    def fields(self) -> Fields | None:
        """The top-level fields, as the kernel has read them in `readable`; see Fields.

        None if the body was not read whole, or is not certainly a JSON object without double keys.
        """
        kernel, data = self.kernel, self.readable
        if kernel is not None and data:
            self.kernel = None
            self._fields = kernel.functions.read_fields(data)
            if self._fields is None:
                kernel.fallbacks["request"] += 1
        return self._fields

    @property
    def begun(self) -> bytes:
        """What has arrived of a body that is not read whole."""
        return self._begun

    @property
    def prompt_estimate(self) -> int:
        """Estimated prompt tokens: one for each four bytes."""
        return (self.length or len(self.data or b"")) // BYTES_PER_TOKEN

    def check_length(self) -> None:
        """Raise BodyTooLarge if the announced length is above the limit, before a byte is read."""
        if self.announces_too_much:
            self._too_large()

    async def read_if_short(self, max_bytes: int) -> None:
        """Read the body into `data` if it has at most `max_bytes` or arrives in one chunk.

        Raises BodyTooLarge (413), BodyTimeout (408), CallerGone.
        """
        if self._source is None:
            return
        began = monotonic()
        self._begun, self._more = await self._source()
        self.waited += monotonic() - began
        if not self._more:
            self._hold(self._begun)
            self._begun = b""
            if self._limit is not None and (self.length or 0) > self._limit:
                self._too_large()
        elif self.length is not None and self.length <= max_bytes:
            await self.read()

    async def read(self) -> bytes:
        """Return the whole body. Raises BodyTooLarge (413), BodyTimeout (408), CallerGone."""
        if self.data is None:
            began = monotonic()
            self._hold(b"".join([chunk async for chunk in self.stream()]))
            self.waited += monotonic() - began
        return self.data or b""

    def _hold(self, data: bytes) -> None:
        self.data = self.readable = data
        self.length = len(data)
        if may_have_half(data):
            self.readable = readable(data)

    async def is_object(self) -> bool:
        """Whether the whole body begins as a JSON object in UTF-8; it may still be invalid JSON.

        Raises the exceptions of `read`.
        """
        data = await self.read()
        return _OBJECT.match(data) is not None and b"\0" not in data[:64]

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the chunks as they arrive; the body can be streamed only once."""
        source, self._source = self._source, None
        if source is None:
            raise RuntimeError("this body has already been streamed")
        chunk, size = self._begun, 0
        self._begun = b""
        while True:
            size += len(chunk)
            if self._limit is not None and size > self._limit:
                self._too_large()
            yield chunk
            if not self._more:
                return
            chunk, self._more = await source()

    def _too_large(self) -> None:
        raise BodyTooLarge(
            f"the request body is larger than {self._limit} bytes (server_limits.max_body_bytes)",
            headers=((b"connection", b"close"),),
        )


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse `data` as a JSON object. Raises InvalidJSON (400): what is wrong, and where."""
    try:
        value = msgspec.json.decode(data)
    except NOT_JSON as error:
        raise invalid_json(data, error) from None
    if not isinstance(value, dict):
        raise InvalidJSON("the request body must be a JSON object")
    return value


def refuse_other_formats(headers: Headers) -> None:
    """Raise InvalidJSON if the headers say that a body that is no JSON was not meant to be."""
    coding = get_header(headers, b"content-encoding") or b"identity"
    if coding.strip().lower() != b"identity":
        raise InvalidJSON(f"the request body is compressed (content-encoding: {_shown(coding)})")
    kind = (get_header(headers, b"content-type") or b"").partition(b";")[0]
    if kind and b"json" not in kind.lower():
        raise InvalidJSON(f"the request body must be JSON, and its content-type is {_shown(kind)}")


def _shown(value: bytes) -> str:
    return value[:100].decode("latin-1").strip()


def invalid_json(data: bytes, error: Exception) -> InvalidJSON:
    """Return the refusal of `data`, at which a decoder raised `error`: what is wrong, and where."""
    return InvalidJSON(f"the request body is not valid JSON: {_reason(data, error)}")


def _reason(data: bytes, error: Exception) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        return "it is UTF-16 or UTF-32, and JSON is UTF-8 (RFC 8259)"
    if data.startswith(codecs.BOM_UTF8):
        return "it begins with a byte order mark"
    try:
        data.decode()
    except UnicodeDecodeError as bad:
        return f"the byte 0x{data[bad.start]:02x} at position {bad.start} is not UTF-8"
    half = lone_half(data)
    return str(error) if half is None else f"half of a surrogate pair at position {half}"
