"""The caller of an item's call: keeps the response."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from gateway import Headers, get_header


class Keeping:
    """A gateway Caller. `is_full` if the response was larger than `most` bytes: it is not kept."""

    def __init__(self, most: int) -> None:
        self.drained: Callable[[], None] = lambda: None
        self.is_full = False
        self._headers: Headers = ()
        self._chunks: list[bytes] = []
        self._left = most

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    @property
    def retry_after(self) -> float:
        """Seconds to wait, as the response says; 0 if it does not say."""
        text = get_header(self._headers, b"retry-after") or b""
        if text.isdigit():
            return float(text[:9])
        try:
            seconds = parsedate_to_datetime(text.decode("latin-1")).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
        return max(seconds, 0.0)

    def start(self, status: int, headers: Headers) -> None:
        self._headers = headers

    def write(self, data: bytes) -> bool:
        self._left -= len(data)
        if self._left < 0:
            self.is_full = True
            self._chunks.clear()
        else:
            self._chunks.append(data)
        return True

    def receive_last(self, data: bytes) -> None:
        """Receive the last bytes, before the call is recorded."""
        self.write(data)

    def cut(self) -> None: ...

    async def end(self, data: bytes) -> None: ...
