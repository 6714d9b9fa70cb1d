"""Responses that can no longer have their own head, because comments were sent before them.

While a call waits (see Call.keep_alive), the gateway may send its caller the head of an event
stream and comments. A response that is an event stream then follows them. Any other response, such
as an error of the worker or of the gateway, is sent in that stream as one `error` event, the last
one.
"""

import re

import msgspec

COMMENT = b": waiting\n\n"

MAX_KEPT_BYTES = 64 * 1024
"""Maximum size in bytes of such a response; of a longer one only the status is reported."""

MAX_QUOTED_CHARS = 2_000
"""Maximum number of characters quoted from a response that is no error body."""

_NAMED_ERROR = frozenset((b"event: error", b"event:error"))

EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


class _Body(msgspec.Struct):
    error: msgspec.Raw


class LateResponse:
    """Gathers a response with `status` whose head cannot be sent; `event` renders it."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._body = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_KEPT_BYTES:
            self._body += data

    def event(self) -> bytes:
        """An `error` event: the body if clients can read it as an error, else a message."""
        body = self._body if self._size <= MAX_KEPT_BYTES else b""
        if not _is_error(body):
            body = self._words(body)
        lines = re.split(rb"\r\n|\r|\n", body)
        return b"event: error\n" + b"".join([b"data: %b\n" % line for line in lines]) + b"\n"

    def _words(self, body: bytes) -> bytes:
        said = body.decode(errors="replace").strip()[:MAX_QUOTED_CHARS]
        message = f"the worker answered {self._status}, and not with an event stream"
        error = {
            "message": f"{message}: {said}" if said else message,
            "type": "server_error" if self._status >= 500 else "upstream_error",
            "param": None,
            "code": self._status,
        }
        return msgspec.json.encode({"error": error})


def ends_in_error(end: bytes) -> bool:
    """Whether the last event in `end`, the latest bytes of a stream, reports an error."""
    lines = re.split(rb"\r\n\r\n|\n\n|\r\r", end.rstrip())[-1].splitlines()
    data = b"\n".join([line[len(b"data:") :] for line in lines if line.startswith(b"data:")])
    return not _NAMED_ERROR.isdisjoint(lines) or _is_error(data)


def _is_error(body: bytes) -> bool:
    try:
        body.decode()
        return bytes(msgspec.json.decode(body, type=_Body).error) != b"null"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
