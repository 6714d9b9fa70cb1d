"""What a session asks of its calls: the sampling parameters that were given with it."""

import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

log = logging.getLogger("gateway.trace_capture")

REMEMBERED = 10_000
"""Sessions whose parameters are at hand."""

FRESH = 1.0
"""Seconds after which they are read again: another process may have changed them."""

QUERY = "SELECT sampling_params FROM sessions WHERE session_id = ?"

Params = Mapping[str, Any]


class Readable(Protocol):
    """What `Storage.connect` gives, as far as it is used here."""

    def check(self) -> None: ...
    def execute(self, sql: str, parameters: tuple[str], /) -> sqlite3.Cursor: ...
    def close(self) -> None: ...


class SessionOptions:
    """Reads them from the file; `forget` when this process changes them."""

    def __init__(self, connect: Callable[[], Readable]) -> None:
        self._connect = connect
        self._db: Readable | None = None
        self._known: OrderedDict[str, tuple[float, Params]] = OrderedDict()

    def sampling_params(self, session_id: str) -> Params:
        """Empty where none were given. While the file cannot be read, what they last were."""
        read_at, params = self._known.get(session_id, (0.0, {}))
        now = time.monotonic()
        if now - read_at < FRESH:
            return params
        try:
            params = self._read(session_id)
        except sqlite3.Error as error:
            log.error("sampling parameters of sessions cannot be read now: %s", error)
            self.close()
        self._known[session_id] = (now, params)
        self._known.move_to_end(session_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return params

    def forget(self, session_id: str) -> None:
        self._known.pop(session_id, None)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, session_id: str) -> Params:
        if self._db is None:
            self._db = self._connect()
        self._db.check()
        row = self._db.execute(QUERY, (session_id,)).fetchone()
        if row is None or row[0] == "{}":
            return {}
        found: Params = msgspec.json.decode(row[0])
        return found
