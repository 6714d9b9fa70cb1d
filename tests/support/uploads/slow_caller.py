"""A caller that sends a part of its PATCH and stays."""

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from support.callers.raw_client import RawClient, head_of

from gateway.testing import Live


def raw(live: Live) -> RawClient:
    url = urlsplit(live.url)
    assert url.hostname is not None
    assert url.port is not None
    return RawClient(url.hostname, url.port)


def patch_head(path: str, offset: int, length: int | None, **more: str) -> bytes:
    """The head of a PATCH; `length` None: its body comes in chunks."""
    framing = (
        (b"transfer-encoding", b"chunked")
        if length is None
        else (b"content-length", b"%d" % length)
    )
    return head_of(
        "PATCH",
        path,
        [
            (b"tus-resumable", b"1.0.0"),
            (b"content-type", b"application/offset+octet-stream"),
            (b"upload-offset", b"%d" % offset),
            framing,
            *((name.replace("_", "-").encode(), value.encode()) for name, value in more.items()),
        ],
    )


@contextlib.asynccontextmanager
async def sending(
    live: Live, path: str, offset: int, length: int | None, data: bytes, **more: str
) -> AsyncIterator[RawClient]:
    """A PATCH of which only `data` has been sent."""
    async with raw(live) as client:
        await client.send(patch_head(path, offset, length, **more) + data)
        yield client


async def ended(client: RawClient) -> bytes:
    """All that the gateway still sends until it closes the connection."""
    with contextlib.suppress(ConnectionResetError):
        return await client.reader.read()
    return b""


async def stored(live: Live, path: str, size: int) -> None:
    """Wait until so many bytes of an upload are on the disk; no request is disturbed by that."""
    while (await live.client.get(path)).json()["offset"] < size:
        pass
