"""Requests on one connection: written with what HTTP allows, and read in the plainest way."""

import msgspec
from hypothesis import strategies as st

Headers = list[tuple[bytes, bytes]]

OFFERS: list[Headers] = [
    [],
    [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"A")],
    [(b"Upgrade", b"TLS/1.0"), (b"connection", b"keep-alive, upgrade")],
    [(b"UPGRADE", b"h2c"), (b"connection", b"upgrade"), (b"connection", b"keep-alive")],
    [(b"upgrade", b"h2c, foo/2")],
    [(b"upgrade", b""), (b"connection", b"upgrade")],
]


class Request(msgspec.Struct, frozen=True):
    """`chunks` None: by length."""

    method: bytes
    offer: Headers
    body: bytes
    chunks: int | None
    tail: bytes

    def written(self, target: bytes, *, last: bool) -> bytes:
        lines = [(b"Host", b"gateway.test"), *self.offer]
        if self.chunks is None:
            lines.append((b"Content-Length", b"%d" % len(self.body)))
        else:
            lines.append((b"Transfer-Encoding", b"chunked"))
        if last:
            lines.append((b"Connection", b"close"))
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (self.method, target, head, self._framed())

    def _framed(self) -> bytes:
        if self.chunks is None:
            return self.body
        pieces = [self.body[at : at + self.chunks] for at in range(0, len(self.body), self.chunks)]
        framed = b"".join(b"%x%b\r\n%b\r\n" % (len(one), self.tail, one) for one in pieces)
        return framed + b"0\r\nx-trailer: 1\r\nupgrade: h2c\r\n\r\n"


LOOKS_LIKE_A_REQUEST = b"GET /v1/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"

requests = st.builds(
    Request,
    st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD"]),
    st.sampled_from(OFFERS),
    st.binary(max_size=60) | st.sampled_from([b"", LOOKS_LIKE_A_REQUEST, b"0\r\n\r\n"]),
    st.none() | st.integers(1, 40),
    st.sampled_from([b"", b";a=b", b';a="b"']),
)


def read_all(raw: bytes) -> list[tuple[str, str, bytes]]:
    """Method, target and body of each of the requests that make up `raw`."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, target, _ = first.decode().split(" ")
        fields = {name.lower(): value for name, _, value in (one.partition(b": ") for one in lines)}
        if b"transfer-encoding" in fields:
            body, raw = _chunks(raw)
        else:
            length = int(fields[b"content-length"])
            body, raw = raw[:length], raw[length:]
        found.append((method, target, body))
    return found


def _chunks(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, _, raw = raw.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            return body, raw.partition(b"\r\n\r\n")[2]
        body, raw = body + raw[:size], raw[size + 2 :]
