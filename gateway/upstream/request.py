"""Builds the head of a request to a worker, and uploads a body that is streamed."""

from collections.abc import AsyncIterable

from gateway.headers import Headers
from gateway.kernel import active
from gateway.upstream.connection import Connection
from gateway.upstream.response import HOP_BY_HOP, without

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
"""Headers with callers' keys for the gateway; stripped unless `forward_authorization` is set."""

REPLACED = frozenset({b"host", b"content-length", b"expect", b"x-request-id"})
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class HeadTemplate:
    """The header lines that are the same in every request to one worker.

    `host` is the authority; `own` are the headers configured for the worker, which replace the
    caller's.
    """

    def __init__(self, host: str, own: dict[str, str], *, forward_credentials: bool) -> None:
        lines = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in own.items()]
        names = {name for name, _ in lines}
        self._fixed = b"host: %b\r\n" % host.encode("ascii") + _lines(lines)
        self._identity = b"" if b"accept-encoding" in names else b"accept-encoding: identity\r\n"
        self._drop = (
            HOP_BY_HOP | REPLACED | names | (frozenset() if forward_credentials else CREDENTIALS)
        )
        self._join = active().functions.join_lines
        self._drop_readable = self._drop | {b"accept-encoding"}

    def fill(
        self,
        method: str,
        target: str,
        headers: Headers,
        request_id: str,
        length: int | None,
        *,
        readable: bool = False,
    ) -> bytes:
        """Build the whole head. `target` is path and query; `length` None: the body is chunked.

        `readable`: the gateway reads the response, so the worker must not compress it.
        """
        first = f"{method} {target} HTTP/1.1\r\nx-request-id: {request_id}\r\n".encode("latin-1")
        dropped, identity = self._drop, b""
        if readable:
            dropped, identity = self._drop_readable, self._identity
        if length is None:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif length or method in WITH_BODY:
            framing = b"content-length: %d\r\n\r\n" % length
        else:
            framing = b"\r\n"
        before = first + self._fixed + identity
        joined = self._join(before, headers, dropped, framing)
        if joined is not None:
            return joined
        return b"".join((before, _lines(without(headers, dropped)), framing))


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % line for line in headers])


async def upload(
    chunks: AsyncIterable[bytes],
    connection: Connection,
    *,
    chunked: bool,
    idle_timeout: float | None,
) -> None:
    """Send a body chunk by chunk, as fast as the worker reads it.

    Raises IdleTimeout if a chunk has to wait more than `idle_timeout` seconds for the worker to
    read, and any exception of `chunks`.
    """
    async for chunk in chunks:
        if chunk:
            connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk, more=True)
            await connection.drain(idle_timeout)
    connection.write(b"0\r\n\r\n" if chunked else b"", more=False)
