"""The body of a request: read whole by whoever asks for it, else passed on as it comes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from gateway.errors import BodyTooLarge, InvalidJSON

Source = Callable[[], Awaitable[tuple[bytes, bool]]]
"""Gives the next chunk, and whether more follows; raises CallerGone, BodyTimeout."""


class Body:
    """`data` is the whole body once it has been read; `length` its bytes, where known before.

    `limit` is the most that is taken, in bytes: past it reading raises BodyTooLarge.
    """

    __slots__ = ("_begun", "_limit", "_more", "_source", "data", "length")

    def __init__(
        self,
        data: bytes | None = None,
        *,
        source: Source | None = None,
        length: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.data = data
        self.length = length if data is None else len(data)
        self._source = source
        self._limit = limit
        self._begun = b""
        self._more = data is None

    def check_length(self) -> None:
        """Raises BodyTooLarge by what the caller announced, before a byte is read."""
        if self._limit is not None and self.length is not None and self.length > self._limit:
            self._too_large()

    async def gather(self, most: int) -> None:
        """Have `data` if the body is at most `most` bytes long, or came in one piece.

        Raises BodyTooLarge (413), BodyTimeout (408), CallerGone.
        """
        if self._source is None:
            return
        self._begun, self._more = await self._source()
        if not self._more:
            self.data, self._begun = self._begun, b""
            self.length = len(self.data)
            self.check_length()
        elif self.length is not None and self.length <= most:
            await self.read()

    async def read(self) -> bytes:
        """The whole body. Raises BodyTooLarge (413), BodyTimeout (408), CallerGone."""
        if self.data is None:
            self.data = b"".join([chunk async for chunk in self.stream()])
            self.length = len(self.data)
        return self.data

    async def stream(self) -> AsyncIterator[bytes]:
        """The chunks as they come; what was streamed cannot be had again."""
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
            f"the request body is larger than {self._limit} bytes (limits.max_body_bytes)",
            headers=((b"connection", b"close"),),
        )


def parse_object(data: bytes) -> dict[str, Any]:
    """`data` as a JSON object. Raises InvalidJSON (400)."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJSON(f"the request body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidJSON("the request body must be a JSON object")
    return value
