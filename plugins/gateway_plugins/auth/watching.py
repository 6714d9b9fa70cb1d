"""The current keys: loaded again when their file changes, kept while the file is invalid."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from gateway import ConfigError
from gateway_plugins.auth.keys import Keys
from gateway_plugins.auth.reading import Stamp, read, stamp_of

log = logging.getLogger("gateway.auth")

SETTLE_NS = 2_000_000_000
"""Nanoseconds after which a file's times distinguish two writes, on any file system."""

MAX_WARNINGS = 20
"""Maximum number of scopes to warn about."""

OTHERS = 0o077
"""Permission bits of all users but the file's owner."""


class Content(NamedTuple):
    """Result of parsing bytes with this digest: keys, or a `fault` if there are none."""

    digest: bytes
    keys: Keys | None = None
    fault: str = ""


class Looked(NamedTuple):
    """Result of a look at the file.

    `stamp` is None if the next look must read the file even if the file seems unchanged.
    """

    stamp: Stamp | None
    content: Content
    mode: int


class KeysFile:
    """Watches one key file.

    `keys` is None until the file has been valid once; `trouble` is the current problem. `every` is
    in seconds. `known` returns the scopes that something requires.
    """

    def __init__(self, path: Path, every: float, known: Callable[[], Collection[str]]) -> None:
        self.path = path
        self._every = every
        self._wanted = asyncio.Event()
        self.keys: Keys | None = None
        self.trouble: str | None = None
        self._known = known
        self._stamp: Stamp | None = None
        self._content = Content(b"")
        self._warned: set[str] = set()

    def change(self, path: Path, every: float) -> None:
        """Switch to this file soon; until the file is valid, the previous keys still hold."""
        self.path, self._every = path, every
        self._wanted.set()

    async def adopt(self, data: bytes) -> None:
        """Use the keys that another process has read, until the file can be read here."""
        content = await asyncio.to_thread(_content, hashlib.sha256(data).digest(), data, None)
        if content.keys is not None and self.keys is None:
            self.keys = content.keys
            log.warning("%s: the %d keys of another process hold", self.path, len(content.keys))

    async def run(self) -> None:
        """Look at the file at intervals, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._wanted.wait()
            self._wanted.clear()
            await self.look()

    async def look(self) -> None:
        """Load the file if it has changed and is valid. Raises nothing."""
        path = self.path
        found = await asyncio.to_thread(_look, path, self._stamp, self._content, self.keys)
        if found is None or path != self.path:
            return
        if isinstance(found, Looked):
            self._note(found)
        else:
            self._stamp = None
            self._tell(found)

    def _note(self, looked: Looked) -> None:
        self._stamp, self._content = looked.stamp, looked.content
        if looked.content.keys is None:
            self._tell(f"{self.path}: {looked.content.fault}")
        else:
            self._take(looked.content.keys)
            self._warn(looked.mode, looked.content.keys)

    def _take(self, keys: Keys) -> None:
        if keys is not self.keys or self.trouble is not None:
            log.info("%s: %d keys hold now", self.path, len(keys))
        self.keys, self.trouble = keys, None

    def _tell(self, trouble: str) -> None:
        """Log a problem once, until it changes or ends."""
        if trouble != self.trouble:
            what = "every call gets a 503" if self.keys is None else "the keys before still hold"
            log.error("%s; until that is mended %s", trouble, what)
        self.trouble = trouble

    def _warn(self, mode: int, keys: Keys) -> None:
        if mode & OTHERS and self._is_news("mode"):
            log.warning("%s can be read by others than its owner: chmod 600", self.path)
        for scope in sorted(keys.scopes - {*self._known()})[:MAX_WARNINGS]:
            if len(self._warned) < MAX_WARNINGS and self._is_news(f"scope {scope}"):
                log.warning("%s: nothing asks for the scope %r", self.path, scope)

    def _is_news(self, what: str) -> bool:
        is_news = what not in self._warned
        self._warned.add(what)
        return is_news


def _look(
    path: Path, stamp: Stamp | None, before: Content, keys: Keys | None
) -> Looked | str | None:
    """Look at the file; runs in a thread.

    Returns None if the file is unchanged, and a text if it cannot be read now.
    """
    try:
        return None if stamp_of(path) == stamp else _looked(path, before, keys)
    except ConfigError as error:
        return str(error)
    except Exception as error:  # a failed look must not end the loop
        log.exception("%s could not be looked at", path)
        return f"{path}: {type(error).__name__}"


def _looked(path: Path, before: Content, keys: Keys | None) -> Looked:
    """Read and parse the file. Raises ConfigError if it cannot be read now."""
    data, stamp, mode = read(path)
    # A second write in the same clock tick leaves no trace, so a new file is read once more.
    settled = time.time_ns() - stamp.changed > SETTLE_NS
    digest = hashlib.sha256(data).digest()
    content = before if digest == before.digest else _content(digest, data, keys)
    return Looked(stamp if settled else None, content, mode)


def _content(digest: bytes, data: bytes, before: Keys | None) -> Content:
    try:
        return Content(digest, Keys(data, before))
    except ConfigError as error:
        return Content(digest, fault=str(error))
