"""A caller over a bare socket, which sees each byte of an answer: its header lines, its framing."""

import asyncio
from types import TracebackType
from typing import Self

import msgspec

Headers = list[tuple[bytes, bytes]]

HEAD_END = b"\r\n\r\n"


class CutShort(Exception):
    """The connection ended before the answer did; `answer` is what had come of it."""

    def __init__(self, answer: "RawAnswer") -> None:
        super().__init__(f"cut short after {len(answer.body)} bytes of the body")
        self.answer = answer


class RawAnswer(msgspec.Struct):
    """`headers` as they were sent, in order; `body` without its chunks' framing."""

    status: int
    headers: Headers
    body: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]

    def value(self, name: bytes) -> bytes | None:
        return next(iter(self.values(name)), None)


def head_of(method: str, target: str, headers: Headers) -> bytes:
    """A request's head with the headers given and a Host."""
    lines = [b"%b: %b\r\n" % line for line in [(b"host", b"gateway.test"), *headers]]
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target.encode(), b"".join(lines))


class RawClient:
    """One connection, kept for as many requests as the server allows."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(
        self, method: str, target: str, headers: Headers | None = None, body: bytes = b""
    ) -> RawAnswer:
        """Send a request with a content-length where it has a body, and read its answer.

        Raises CutShort.
        """
        lines = list(headers or [])
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append((b"content-length", b"%d" % len(body)))
        await self.send(head_of(method, target, lines) + body)
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> RawAnswer:
        """The next answer that is not interim. Raises CutShort."""
        answer = await self.head()
        while answer.status < 200:
            answer = await self.head()
        if method == "HEAD" or answer.status in (204, 304):
            return answer
        body = bytearray()
        try:
            await self._read_body(answer, body)
        except asyncio.IncompleteReadError as error:
            answer.body = bytes(body) + error.partial
            raise CutShort(answer) from None
        except ConnectionResetError:
            answer.body = bytes(body)
            raise CutShort(answer) from None
        answer.body = bytes(body)
        return answer

    async def head(self) -> RawAnswer:
        """The next head, interim or not."""
        first, *lines = (await self.reader.readuntil(HEAD_END))[:-4].split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        pairs = [line.split(b": ", 1) for line in lines]
        return RawAnswer(int(status), [(name, value) for name, value in pairs])

    async def ended(self) -> bool:
        """Whether the server closes the connection, with nothing more said."""
        return await self.reader.read() == b""

    async def _read_body(self, answer: RawAnswer, body: bytearray) -> None:
        length = answer.value(b"content-length")
        coding = answer.value(b"transfer-encoding")
        assert (length is None) == (coding == b"chunked")
        if length is not None:
            body += await self.reader.readexactly(int(length))
            return
        while size := int(await self._line(), 16):
            body += await self.reader.readexactly(size)
            assert await self._line() == b""
        assert await self._line() == b""

    async def _line(self) -> bytes:
        try:
            return (await self.reader.readuntil(b"\r\n"))[:-2]
        except asyncio.IncompleteReadError as error:
            raise asyncio.IncompleteReadError(b"", None) from error
