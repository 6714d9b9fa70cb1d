"""An answer that can no longer have its own head: comments have gone out before it.

While a call waits (see Call.keep_alive) its caller may be sent the head of an event stream and
comments. A stream then goes on behind them. Whatever else comes, an error of a worker's or of the
gateway's, has to be said in that stream: as one `error` event, the last one.
"""

import re

import msgspec

COMMENT = b": waiting\n\n"

MOST = 64 * 1024
"""Bytes that are kept of such an answer; of a longer one only the status is told."""

QUOTED = 2_000
"""Characters that are quoted of one that is no error body."""

EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


class _Body(msgspec.Struct):
    error: msgspec.Raw


class LateAnswer:
    """Gathers an answer with `status` whose head cannot be sent; `event` tells it all the same."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._body = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MOST:
            self._body += data

    def event(self) -> bytes:
        """The body where it is an error that clients can read, else words about it."""
        body = self._body if self._size <= MOST else b""
        if not _is_error(body):
            body = self._words(body)
        lines = re.split(rb"\r\n|\r|\n", body)
        return b"event: error\n" + b"".join([b"data: %b\n" % line for line in lines]) + b"\n"

    def _words(self, body: bytes) -> bytes:
        said = body.decode(errors="replace").strip()[:QUOTED]
        message = f"the worker answered {self._status}, and not with an event stream"
        error = {
            "message": f"{message}: {said}" if said else message,
            "type": "upstream_error",
            "param": None,
            "code": self._status,
        }
        return msgspec.json.encode({"error": error})


def _is_error(body: bytes) -> bool:
    try:
        body.decode()
        return bytes(msgspec.json.decode(body, type=_Body).error) != b"null"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
