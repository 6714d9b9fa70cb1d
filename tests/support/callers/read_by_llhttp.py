"""What llhttp makes of a message, with the callbacks that the gateway has."""

import httptools

from gateway.config import ServerLimits
from gateway.errors import UpstreamProtocol
from gateway.frontends.uvicorn import target_of
from gateway.kernel.interface import ReadRequest, ReadResponse
from gateway.upstream.response import ResponseParser

LIMITS = ServerLimits()


class _Request:
    def __init__(self) -> None:
        self.url = self.body = b""
        self.lines: list[tuple[bytes, bytes]] = []
        self.heads = self.ends = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.ends += 1


def request_by_llhttp(data: bytes) -> ReadRequest | None:
    """Return the one whole request in `data`, None if there is another number of them.

    Also None if it is invalid, or after it the connection would be closed.
    """
    found = _Request()
    parser = httptools.HttpRequestParser(found)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    try:
        parser.feed_data(data)
        target = target_of(found.url)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
        return None
    if (found.heads, found.ends) != (1, 1) or not parser.should_keep_alive():
        return None
    if parser.get_http_version() != "1.1":
        return None
    return (parser.get_method().decode(), *target), found.lines, found.body


def response_by_llhttp(data: bytes) -> ReadResponse | None:
    """Return the response in `data` as the gateway's parser reads it; None: it is not whole."""
    parser = ResponseParser(LIMITS.max_header_bytes, LIMITS.max_headers)
    try:
        body = parser.feed(data)
    except UpstreamProtocol:
        return None
    if not (parser.complete and parser.reusable):
        return None
    return parser.status, parser.headers, body
