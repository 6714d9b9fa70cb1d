"""What a session sets for its calls: sampling parameters, and token-in/token-out."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from gateway import OpenDatabase, StorageError

log = logging.getLogger("gateway.trace_capture")

MAX_CACHED_SESSIONS = 10_000
"""Number of sessions whose parameters are cached."""

REFRESH_SECONDS = 1.0
"""Seconds until parameters are read again: another process may have changed them."""

QUERY = """
SELECT sampling_params, (SELECT mode FROM session_tito WHERE session_id = :session_id)
FROM sessions WHERE session_id = :session_id
"""

ANY_QUERY = """
SELECT EXISTS (SELECT 1 FROM sessions WHERE sampling_params != '{}')
    OR EXISTS (SELECT 1 FROM session_tito)
"""

Params = Mapping[str, Any]

T = TypeVar("T")


class Set(msgspec.Struct, frozen=True):
    """What a session has set; `tito` is None if it has not set that."""

    params: Params = {}
    tito: str | None = None


NOTHING = Set()


class SessionOptions:
    """Reads and caches what sessions set; call `forget` when this process changes it.

    Every REFRESH_SECONDS, checks whether any session sets anything; while none does, it is not read
    for each session.
    """

    def __init__(self, connect: Callable[[], OpenDatabase]) -> None:
        self._connect = connect
        self._db: OpenDatabase | None = None
        self._known: OrderedDict[str, tuple[float, Set]] = OrderedDict()
        self._some = True
        self._looked = 0.0

    def sampling_params(self, session_id: str) -> Params:
        """Return {} if none were given, and the last known ones if the file cannot be read."""
        return self.of(session_id).params

    def of(self, session_id: str) -> Set:
        """Return what the session has set, or what is known last if the file cannot be read."""
        now = time.monotonic()
        if now - self._looked >= REFRESH_SECONDS:
            self._looked = now
            self._some = self._tried(self._read_whether_any, self._some)
        if not self._some:
            return NOTHING
        read_at, found = self._known.get(session_id, (0.0, NOTHING))
        if now - read_at < REFRESH_SECONDS:
            return found
        found = self._tried(lambda: self._read(session_id), found)
        self._known[session_id] = (now, found)
        self._known.move_to_end(session_id)
        if len(self._known) > MAX_CACHED_SESSIONS:
            self._known.popitem(last=False)
        return found

    def _tried(self, read: Callable[[], T], last: T) -> T:
        try:
            return read()
        except StorageError as error:
            log.error("sampling parameters of sessions cannot be read now: %s", error)
            self.close()
            return last

    def forget(self, session_id: str) -> None:
        self._known.pop(session_id, None)
        self._looked = 0.0

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _open(self) -> OpenDatabase:
        """Return the open database. Raises StorageError, also if the file has been replaced."""
        if self._db is None:
            self._db = self._connect()
        self._db.check()
        return self._db

    def _read_whether_any(self) -> bool:
        [(some,)] = self._open().select(ANY_QUERY)
        return bool(some)

    def _read(self, session_id: str) -> Set:
        row = next(self._open().select(QUERY, {"session_id": session_id}), None)
        if row is None or tuple(row) == ("{}", None):
            return NOTHING
        return Set(msgspec.json.decode(row[0]), row[1])
