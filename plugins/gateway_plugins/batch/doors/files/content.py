"""The response with a content, or with a range of it (RFC 9110, 14), read piece by piece."""

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import CallerGone, CallError, NotFound
from gateway_plugins.batch.files.part import refusal

PIECE = 256 * 1024
"""Bytes that are read, and sent, at a time."""

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


class RangeNotSatisfiable(CallError):
    """The range begins behind the end of the content."""

    status = 416
    code = "range_not_satisfiable"
    type = "invalid_request_error"


class Range(NamedTuple):
    """The bytes from `begin` up to, but not including, `end`."""

    begin: int
    end: int


class Content(Response):
    """Sends the file at `path`, whose content never changes.

    Ends if the caller leaves, or takes nothing in for `idle` seconds. Other ranges than one of
    bytes are ignored, as RFC 9110 permits. Raises NotFound if there is no such file,
    RangeNotSatisfiable and FilesUnavailable.
    """

    def __init__(
        self, path: Path, filename: str, threads: ThreadPoolExecutor, idle: float | None
    ) -> None:
        self._path = path
        self._tag = f'"{path.name}"'
        self._threads = threads
        self._idle = idle
        self._lines = {
            "content-type": "application/octet-stream",
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "x-content-type-options": "nosniff",
            "accept-ranges": "bytes",
            "etag": self._tag,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFound("the content of this file is gone") from None
        except OSError as error:
            raise refusal(error) from error
        try:
            size = os.fstat(fd).st_size
            wanted = self._range(Headers(scope=scope), size)
            await self._start(send, wanted, size)
            piece = Range(0, 0) if scope["method"] == "HEAD" else wanted or Range(0, size)
            await self._send(fd, piece, receive, send)
        finally:
            os.close(fd)

    def _range(self, headers: Headers, size: int) -> Range | None:
        text, condition = headers.get("range"), headers.get("if-range")
        if text is None or condition not in (None, self._tag):
            return None
        return range_of(text, size)

    async def _start(self, send: Send, wanted: Range | None, size: int) -> None:
        headers = dict(self._lines)
        if wanted is not None:
            headers["content-range"] = f"bytes {wanted.begin}-{wanted.end - 1}/{size}"
        headers["content-length"] = str(size if wanted is None else wanted.end - wanted.begin)
        lines = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        status = 200 if wanted is None else 206
        await send({"type": "http.response.start", "status": status, "headers": lines})

    async def _send(self, fd: int, piece: Range, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        leaving = loop.create_task(_left(receive))
        try:
            at = piece.begin
            while at < piece.end and not leaving.done():
                count = min(PIECE, piece.end - at)
                data = await loop.run_in_executor(self._threads, os.pread, fd, count, at)
                if not data:
                    raise OSError("the content is shorter than it was")
                at += len(data)
                await self._give(send, data, more=True)
            if not leaving.done():
                await self._give(send, b"", more=False)
        finally:
            leaving.cancel()

    async def _give(self, send: Send, data: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._idle):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise CallerGone("the caller took nothing in (timeouts.idle)") from None


def range_of(text: str, size: int) -> Range | None:
    """Return the range that a header asks for; None if it is not one range of bytes.

    Raises RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch(text)
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        begin, end = max(size - int(last), 0), size
    else:
        begin, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < begin:
            return None
    if begin >= end:
        raise RangeNotSatisfiable(
            f"the file has {size} bytes", headers=((b"content-range", b"bytes */%d" % size),)
        )
    return Range(begin, end)


async def _left(receive: Receive) -> None:
    """Return when the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
