"""One HTTP/1.1 answer after another out of a worker's bytes, by llhttp."""

import httptools

from gateway.call import Headers, get_header
from gateway.errors import UpstreamProtocol

BODILESS = frozenset({204, 304})


class ResponseParser:
    """Feed it what the worker sent; it keeps the head and hands back the body.

    After `feed`: `head_done` with `status` and `headers`, `complete` when the answer is whole, then
    `reusable` says whether the connection may carry another. An answer with neither length nor
    chunks is `until_close`: whole only when the worker closes. Interim answers (1xx) and trailers
    are dropped.
    """

    __slots__ = (
        "_head_only",
        "_head_size",
        "_keep_alive",
        "_llhttp",
        "_max_header_bytes",
        "_max_headers",
        "_pieces",
        "complete",
        "head_done",
        "headers",
        "reusable",
        "status",
        "until_close",
    )

    def __init__(self, max_header_bytes: int, max_headers: int) -> None:
        self._max_header_bytes = max_header_bytes
        self._max_headers = max_headers
        self.reusable = False
        self.begin(head_only=False)

    def begin(self, *, head_only: bool) -> None:
        """Expect the next answer; `head_only`: it answers a HEAD request and has no body."""
        if not self.reusable:
            self._llhttp = httptools.HttpResponseParser(self)
        self._head_only = head_only
        self._head_size = 0
        self._keep_alive = False
        self._pieces: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.head_done = self.complete = self.until_close = self.reusable = False

    def feed(self, data: bytes) -> bytes:
        """The body bytes that `data` brought. After UpstreamProtocol nothing of it counts."""
        try:
            self._llhttp.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:  # what follows a whole answer only costs the connection
                cause = error.__context__
                raise (
                    cause
                    if isinstance(cause, UpstreamProtocol)
                    else UpstreamProtocol("the worker's answer is not valid HTTP/1.1")
                ) from None
            self.reusable = False
        if not self.head_done:
            self._measure_head(len(data))
        return self._take_body()

    def _take_body(self) -> bytes:
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _measure_head(self, more: int) -> None:
        self._head_size += more
        if self._head_size > self._max_header_bytes:
            raise UpstreamProtocol(
                f"the worker's header is larger than {self._max_header_bytes} bytes "
                "(limits.max_header_bytes)"
            )

    # llhttp calls these

    def on_message_begin(self) -> None:
        if self.complete:
            raise UpstreamProtocol("the worker sent more than the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer
        self._measure_head(len(name) + len(value))
        if len(self.headers) >= self._max_headers:
            raise UpstreamProtocol(
                f"the worker sent more than {self._max_headers} header lines (limits.max_headers)"
            )
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._llhttp.get_status_code()
        if self.status == 101 or not 100 <= self.status <= 599:
            raise UpstreamProtocol(f"the worker answered with the status {self.status}")
        if self.status < 200:
            self.headers = []
            return
        self.head_done = True
        self.until_close = self._ends_with_the_connection()
        self._keep_alive = self._llhttp.should_keep_alive()
        if self._head_only:
            self.complete = True  # llhttp waits for the body that a HEAD answer only announces

    def _ends_with_the_connection(self) -> bool:
        if self._head_only or self.status in BODILESS:
            return False
        coding, length = None, None
        for name, value in self.headers:
            if name == b"transfer-encoding":
                coding = value
            elif name == b"content-length":
                length = value
        if coding is not None:
            return not coding.strip().lower().endswith(b"chunked")
        return length is None

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True
            self.reusable = self._keep_alive and not self._head_only


HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that concern one connection only (RFC 9110, 7.6.1)."""


def without(headers: Headers, dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """`headers` less `dropped` (HOP_BY_HOP among them) and what `connection` names."""
    kept = [line for line in headers if line[0] not in dropped]
    named = get_header(headers, b"connection")
    if named is None or named in (b"keep-alive", b"close"):
        return kept
    tokens = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    return [line for line in kept if line[0] not in tokens]
