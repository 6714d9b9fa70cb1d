"""Counts the calls that gateways had in flight when they died: journals become ledger rows."""

import asyncio
import contextlib
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from gateway import GatewayError, Storage
from gateway_plugins.usage.journal.file import HEADER, SLOT, STEP, UNKNOWN, Noted, read, try_lock
from gateway_plugins.usage.ledger.model_names import Models
from gateway_plugins.usage.ledger.row import ERROR, SUCCESS, Row, insert

log = logging.getLogger("gateway.usage")

INTERVAL = 10.0
"""Seconds between two searches for journals of gateways that died."""

BATCH_BYTES = 8 * STEP * SLOT
"""Bytes that are read at a time, and counted in one transaction."""

MAX_JOURNAL_BYTES = 1 << 30
"""Maximum bytes of a journal; a larger file is not taken for a journal."""

MAX_WARNINGS = 100
"""Maximum number of distinct warnings; each is logged only once."""

UNREADABLE_SUFFIX = "-unreadable"
"""Appended to the name of a journal that was set aside."""


class Recovery:
    """Counts the calls in journals beside the database, once their processes are gone.

    A row that exists already stays as it is, so no call is counted twice, even if a process dies in
    the middle of a recovery. `counted` is the number of calls that were added.
    """

    def __init__(self, storage: Storage, models: Models) -> None:
        self.counted = 0
        self._storage = storage
        self._models = models
        self._said: set[str] = set()

    async def run(self) -> None:
        """Search for journals repeatedly, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.run_once()

    async def run_once(self) -> None:
        """Look at all journals that there are now."""
        try:
            for path in await asyncio.to_thread(journals_of, self._storage.path):
                await self._look_at(path)
        except OSError as error:
            self._warn_once(f"journals of calls cannot be looked for: {error}")

    async def _look_at(self, path: Path) -> None:
        before = self.counted
        try:
            with taken(path) as fd:
                if fd is not None:
                    await self._recover(path, fd)
        except (OSError, GatewayError) as error:
            self._warn_once(f"{path}: what was in flight cannot be counted now: {error}")
        if self.counted > before:
            message = "%d calls that a gateway had when it died are counted now"
            log.warning(message, self.counted - before)

    async def _recover(self, path: Path, fd: int) -> None:
        """Count the calls of a journal whose process is gone, then remove the journal.

        A journal that cannot be read in full is set aside instead.
        """
        place, senseless, fault = SLOT, 0, _fault(fd)
        while not fault and (slots := await asyncio.to_thread(os.pread, fd, BATCH_BYTES, place)):
            calls, unread = await asyncio.to_thread(read, slots)
            await self._count(calls)
            place, senseless = place + len(slots), senseless + unread
        if senseless:
            fault = f"{senseless} of its calls cannot be read"
        _put_away(path, fault)

    async def _count(self, calls: Sequence[Noted]) -> None:
        if calls:
            rows = [self._row_of(call) for call in calls]
            self.counted += await self._storage.write(partial(insert, rows=rows))

    def _row_of(self, call: Noted) -> Row:
        """Build the row; a call that had not ended is an error, with the tokens known so far.

        It is no request if its work runs again.
        """
        tokens, ended = call.completion_tokens, call.ended
        if ended.outcome == UNKNOWN:
            ended = ended._replace(outcome=ERROR, prompt_tokens=call.prompt_tokens)
        return Row(
            id=call.id,
            time=call.time,
            key=call.key,
            model=self._models.named(call.model, served=ended.outcome == SUCCESS or tokens > 0),
            worker=call.worker,
            source=call.source,
            outcome=ended.outcome,
            prompt_tokens=ended.prompt_tokens,
            completion_tokens=tokens,
            cached_tokens=ended.cached_tokens,
            reasoning_tokens=ended.reasoning_tokens,
            counted=ended.counted & 1,
            unread=ended.counted >> 1 & 1,
            repeated=int(call.repeatable),
        )

    def _warn_once(self, words: str) -> None:
        if words not in self._said and len(self._said) < MAX_WARNINGS:
            self._said.add(words)
            log.warning("%s", words)


def journals_of(database: Path) -> list[Path]:
    """Return all journals beside `database`, also of living processes. Raises OSError."""
    name = re.compile(re.escape(database.name) + r"-calls-\d+-[0-9a-f]{8}")
    with os.scandir(database.parent) as entries:
        return [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]


def calls_of(path: Path) -> list[Noted]:
    """Return the calls in a journal, also of a living process; none if it is no journal.

    Raises OSError if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if _fault(file.fileno()):
                return []
            file.seek(SLOT)
            return read(file.read())[0]
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def taken(path: Path) -> Iterator[int | None]:
    """Open and lock the journal; None if its process lives, or if the file is gone.

    Raises OSError if it is not a regular file, or if another user owns it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    try:
        _check_owner(os.fstat(fd))
        yield fd if try_lock(path, fd) else None
    finally:
        os.close(fd)


def _check_owner(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError("it is no file, or somebody else's")


def _put_away(path: Path, fault: str) -> None:
    if not fault:
        path.unlink()
        return
    aside = path.rename(path.with_name(path.name + UNREADABLE_SUFFIX))
    log.warning("a journal of calls in flight is not whole: %s; see %s", fault, aside)


def _fault(fd: int) -> str:
    """Return why the file is not a journal, "" if it is one.

    An empty file is one: its process died while it created the file.
    """
    size = os.fstat(fd).st_size
    if size > MAX_JOURNAL_BYTES:
        return f"it has {size} bytes"
    return "" if not size or os.pread(fd, SLOT, 0) == HEADER else "it does not begin as one"
