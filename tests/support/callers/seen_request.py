"""What a worker saw of a call: a raw request, taken apart."""

import msgspec

Headers = list[tuple[bytes, bytes]]


class Seen(msgspec.Struct, frozen=True):
    """`headers` as they were sent, in order; `body` without its chunks' framing."""

    method: str
    target: str
    headers: Headers
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def seen(request: bytes) -> Seen:
    """Raises ValueError where `request` is no whole request."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, version = first.decode("latin-1").split(" ")
    if version != "HTTP/1.1":
        raise ValueError(f"{version} is not what a worker is asked in")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    chunked = (b"transfer-encoding", b"chunked") in headers
    return Seen(method, target, headers, _unchunked(body) if chunked else body)


def _unchunked(body: bytes) -> bytes:
    chunks: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        end = int(size, 16)
        if body[end : end + 2] != b"\r\n":
            raise ValueError(f"a chunk of {end} bytes does not end where it says")
        if not end:
            return b"".join(chunks)
        chunks.append(body[:end])
        body = body[end + 2 :]
