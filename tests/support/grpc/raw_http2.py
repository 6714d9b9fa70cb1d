"""A caller that writes its frames of HTTP/2 itself: what no library would send."""

import asyncio
import struct
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7

END_STREAM, END_HEADERS = 1, 4

NEWEST = b"\xbe"
"""HPACK's reference to the newest line of its table: RFC 7541, section 2.3.3."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request_head(
    stream: int,
    *lines: tuple[bytes, bytes],
    repeated: tuple[bytes, bytes] | None = None,
    times: int = 0,
) -> bytes:
    """Return the frame that begins a call of `ChatCompletionStream`.

    The line `repeated` is there once, and is then referred to so many times.
    """
    usual = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/llm.v1.LlmService/ChatCompletionStream"),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    packed = b"".join(b"\0" + _text(name) + _text(value) for name, value in (*usual, *lines))
    if repeated is not None:
        packed += b"\x40" + _text(repeated[0]) + _text(repeated[1]) + NEWEST * times
    return frame(HEADERS, END_HEADERS, stream, packed)


def message(stream: int, data: bytes, flags: int = END_STREAM) -> bytes:
    """Return the frame of a message."""
    return frame(DATA, flags, stream, b"\0" + struct.pack(">I", len(data)) + data)


def _text(data: bytes) -> bytes:
    """Encode a text as HPACK has it without Huffman: RFC 7541, section 5.2."""
    if len(data) < 127:
        return bytes((len(data),)) + data
    length, rest = len(data) - 127, b"\x7f"
    while length >= 128:
        rest += bytes((length % 128 + 128,))
        length //= 128
    return rest + bytes((length,)) + data


class RawHttp2:
    """One connection, used as a context manager. It reads nothing unless it is told to."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self.reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def begin(self) -> None:
        await self.write(PREFACE + frame(SETTINGS, 0, 0, b""))

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def until(self, *kinds: int) -> int:
        """Read frames up to one of `kinds`; return its kind. Raises IncompleteReadError."""
        while True:
            head = await self.reader.readexactly(9)
            await self.reader.readexactly(int.from_bytes(head[:3]))
            if head[3] in kinds:
                return head[3]

    async def end_of_stream(self) -> list[int]:
        """Read to the end of a stream; return the kinds of the frames that tell of it."""
        kinds: list[int] = []
        while True:
            try:
                head = await self.reader.readexactly(9)
                await self.reader.readexactly(int.from_bytes(head[:3]))
            except (asyncio.IncompleteReadError, ConnectionError):
                return kinds
            if head[3] in (HEADERS, RST_STREAM, GOAWAY):
                kinds.append(head[3])
                if head[3] != HEADERS or head[4] & END_STREAM:
                    return kinds

    def abort(self) -> None:
        """Close the connection with a reset, as a process does that dies."""
        self._writer.transport.abort()

    async def __aexit__(self, *_: object) -> None:
        self.abort()
