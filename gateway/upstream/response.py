"""Parses successive HTTP/1.1 responses of a worker, with llhttp."""

import httptools

from gateway.errors import UpstreamProtocol
from gateway.headers import Headers
from gateway.kernel import reference
from gateway.kernel.interface import Functions

BODILESS = frozenset({204, 304})
FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class ResponseParser:
    """Parses the bytes that the worker sent; stores the head and returns the body.

    After `feed`, `head_done` is set once `status` and `headers` are known, and `complete` once the
    response has ended; then `reusable` is whether the connection may carry another. A response with
    neither length nor chunks is `until_close`: it ends when the worker closes. Interim responses
    (1xx) and trailers are dropped. `pieces` are the parts of the body that came last, as framed.
    """

    __slots__ = (
        "_head_only",
        "_head_size",
        "_keep_alive",
        "_llhttp",
        "_max_header_bytes",
        "_max_headers",
        "_measured",
        "_pieces",
        "_read_whole",
        "_trailer_size",
        "complete",
        "head_done",
        "headers",
        "is_chunked",
        "pieces",
        "reusable",
        "status",
        "until_close",
    )

    def __init__(
        self, max_header_bytes: int, max_headers: int, functions: Functions = reference
    ) -> None:
        self._max_header_bytes = max_header_bytes
        self._max_headers = max_headers
        self._read_whole = functions.read_response
        self.reusable = False
        self.begin(head_only=False)

    def begin(self, *, head_only: bool) -> None:
        """Start the next response; `head_only`: the request was a HEAD, so it has no body."""
        if not self.reusable:
            self._llhttp = httptools.HttpResponseParser(self)
        self._head_only = head_only
        self._head_size = self._trailer_size = 0
        self._keep_alive = False
        self._pieces: list[bytes] = []
        self.pieces: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.head_done = self.complete = self.until_close = self.reusable = False
        self.is_chunked = False
        self._measured = False

    def take_whole(self, data: bytes) -> bytes | None:
        """Take a response that came in one read, and return its body; None: `feed` has to.

        For the first read of a response alone: llhttp does not see it.
        """
        if self._head_only:
            return None
        found = self._read_whole(data, self._max_header_bytes, self._max_headers)
        if found is None:
            return None
        self.status, self.headers, body = found
        self.head_done = self.complete = self.reusable = True
        return body

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in `data`. Raises UpstreamProtocol; `data` is then void."""
        try:
            self._llhttp.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:  # bytes after a whole response only cost the connection
                cause = error.__context__
                raise (
                    cause
                    if isinstance(cause, UpstreamProtocol)
                    else UpstreamProtocol("the worker's answer is not valid HTTP/1.1")
                ) from None
            self.reusable = False
        if not self._measured:
            self._measure_head(len(data))
        elif self._pieces:
            self._trailer_size = 0
        else:
            self._measure_trailer(len(data))
        pieces = self._pieces
        if not pieces:
            return b""
        # A kept connection may wait long for its next response: nothing of this one stays with it.
        self.pieces, self._pieces = [] if self.complete else pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _measure_head(self, more: int) -> None:
        """Raise UpstreamProtocol if the head is over a limit.

        The exact size is computed only if the bytes read so far are more than the limit.
        """
        self._measured = self.head_done
        self._head_size += more
        if self._head_size <= self._max_header_bytes and len(self.headers) <= self._max_headers:
            return
        if self.head_done:
            self._head_size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._head_size > self._max_header_bytes:
            raise UpstreamProtocol(
                f"the worker's header is larger than {self._max_header_bytes} bytes "
                "(server_limits.max_header_bytes)"
            )
        if len(self.headers) > self._max_headers:
            raise UpstreamProtocol(
                f"the worker sent more than {self._max_headers} header lines "
                "(server_limits.max_headers)"
            )

    def _measure_trailer(self, more: int) -> None:
        """Raise UpstreamProtocol if the trailer is too large: llhttp buffers each of its lines."""
        self._trailer_size += more
        if self._trailer_size > self._max_header_bytes and not self.complete:
            raise UpstreamProtocol(
                f"the worker's trailer is larger than {self._max_header_bytes} bytes "
                "(server_limits.max_header_bytes)"
            )

    # llhttp calls these

    def on_message_begin(self) -> None:
        if self.complete:
            raise UpstreamProtocol("the worker sent more than the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer
        name = name.lower()
        if name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise UpstreamProtocol("the worker's answer has a transfer coding nobody asked for")
            self.is_chunked = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._llhttp.get_status_code()
        if self.status == 101 or not 100 <= self.status <= 599:
            raise UpstreamProtocol(f"the worker answered with the status {self.status}")
        if self.status < 200:
            self.headers = []
            self.is_chunked = False
            return
        self.head_done = True
        self._keep_alive = self._llhttp.should_keep_alive()
        self.until_close = not self._keep_alive and self._ends_with_the_connection()
        if self._head_only:
            self.complete = True  # llhttp waits for the body that a HEAD response only announces

    def _ends_with_the_connection(self) -> bool:
        if self._head_only or self.status in BODILESS:
            return False
        return all(name not in FRAMING for name, _ in self.headers)

    def on_body(self, data: bytes) -> None:
        if not self._head_only:  # a faulty worker may send a body in response to HEAD
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True
            self.reusable = self._keep_alive and not self._head_only


HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
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
    """Return `headers` without `dropped` (includes HOP_BY_HOP) and those `connection` names."""
    kept = []
    for line in headers:
        if line[0] not in dropped:
            kept.append(line)
        elif line[0] == b"connection" and line[1] not in NAMES_NONE:
            named = named_by(headers)
            return [line for line in headers if line[0] not in dropped and line[0] not in named]
    return kept


NAMES_NONE = frozenset({b"keep-alive", b"close", b"Keep-Alive"})
"""Values of `connection` that name no header."""


def named_by(headers: Headers) -> set[bytes]:
    """Return the names that `connection` gives to headers of one connection."""
    named = [value for name, value in headers if name == b"connection"]
    return {token.strip().lower() for token in b",".join(named).split(b",")}
