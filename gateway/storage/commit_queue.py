"""Group commit, on the event loop's side: while one group is written, the next one collects."""

import asyncio
import logging
import math
from collections import deque
from functools import partial
from typing import Literal

import msgspec

from gateway import config
from gateway.errors import StorageUnavailable
from gateway.storage.sink import Group
from gateway.storage.sqlite.faults import fault_text, is_busy
from gateway.storage.sqlite.writer import Tally, Writer, commit, notify_lost
from gateway.telemetry.metrics import Histogram

log = logging.getLogger("gateway.storage")

RETRY_DELAY = 1.0
"""Seconds between two tries to store a group."""

LOCKED_RETRY_DELAY = 0.02
"""The same if the file is locked: SQLite has waited for the lock already."""

MAX_GROUP_CALLS = 512
"""Maximum number of calls (not entries) in one group."""

LAZY_DELAY = 0.05
"""Seconds that lazy entries wait before they are written, unless a group takes them sooner."""

COMMIT_TIMES = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Bounds of Health.commit_times, in seconds."""


class Health(msgspec.Struct):
    """State of the storage. While it is `degraded`, for `reason`, calls do not wait for commits.

    `unread` is why the latest read failed, "" if the file can be read. `waiting` entries
    (`waiting_bytes` in all) are not committed yet; `lost` ones never will be. `slow` counts the
    commits that took too long, so that calls stopped waiting. All counts are since the start.
    `commit_times` are the seconds from a call's end to its commit, for the first call of each
    group.
    """

    state: Literal["ok", "degraded"] = "ok"
    reason: str = ""
    unread: str = ""
    waiting: int = 0
    waiting_bytes: int = 0
    committed: int = 0
    groups: int = 0
    lost: int = 0
    slow: int = 0
    commit_times: Histogram = msgspec.field(default_factory=lambda: Histogram(COMMIT_TIMES))


class PendingCall(msgspec.Struct, eq=False):
    """The entries of one call; `released` is done when the call need not wait any longer.

    `released` is None if the call does not wait. All entries of a `lazy` one are lazy.
    """

    group: Group
    released: asyncio.Future[None] | None
    since: float
    lazy: bool = False


class CommitQueue:
    """The queue in front of the writer; also the backlog, of at most `backlog_bytes`."""

    def __init__(self, writer: Writer, settings: config.StorageSettings, health: Health) -> None:
        self._writer = writer
        self._settings = settings
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._waiting: list[PendingCall] = []
        self._writing: list[PendingCall] = []
        self._group: Group = []
        self._active = False  # a group is being written, or will be
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf  # when calls no longer wait for the group that is being written
        self._retry: asyncio.TimerHandle | None = None
        self._added = self._finished = 0
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closing: asyncio.Future[None] | None = None
        self._ended = False
        self._urgent = False  # a call or a flush waits for one of `_waiting`
        self._lazy: asyncio.TimerHandle | None = None

    def add(self, group: Group) -> asyncio.Future[None] | None:
        """Queue the entries of one call; the future is done when the call need not wait any longer.

        Returns None if it need not wait at all. If the backlog is full, the entries are lost.
        """
        size, lazy, health = 0, self._settings.durability != "power", self._health
        for entry in group:
            size += entry.size
            lazy = lazy and entry.lazy
        if health.waiting_bytes + size > self._settings.backlog_bytes:
            self._refuse(group)
            return None
        health.waiting += len(group)
        health.waiting_bytes += size
        self._added += 1
        if lazy:
            self._add_lazily(group)
            return None
        waits = health.state == "ok" and self._settings.durability != "none"
        released = self._loop.create_future() if waits else None
        self._waiting.append(PendingCall(group, released, self._loop.time()))
        self._urgent = True
        if not self._active or self._lazy is not None:
            self._begin()
        return released

    def _add_lazily(self, group: Group) -> None:
        self._waiting.append(PendingCall(group, None, self._loop.time() + LAZY_DELAY, lazy=True))
        if not self._active:
            self._begin_later()

    def _begin_later(self) -> None:
        if self._lazy is None:
            self._lazy = self._loop.call_later(LAZY_DELAY, self._begin)

    def _begin(self) -> None:
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        if not self._active:
            self._active = True
            self._loop.call_soon(self._hand_over)

    async def flush(self) -> None:
        """Wait until all entries added so far are committed.

        Raises StorageUnavailable if the storage is degraded or closed before that.
        """
        if self._finished == self._added:
            return
        if self._health.state != "ok":
            raise StorageUnavailable(self._health.reason)
        flushed: asyncio.Future[None] = self._loop.create_future()
        self._flushes.append((self._added, flushed))
        self._urgent = True
        self._begin()
        await flushed

    def begin_degraded(self, error: BaseException) -> None:
        """Start degraded because the file could not be opened; retries although nothing waits."""
        self._active = True
        self._degrade(fault_text(error))
        self._failed(error)

    async def drain(self, seconds: float) -> None:
        """Store the waiting entries, as far as possible within `seconds`."""
        if self._lazy is not None:
            self._begin()
        if not self._active:
            return
        self._closing = self._loop.create_future()
        if self._retry is not None:
            self._retry.cancel()
            self._write()
        await asyncio.wait([self._closing], timeout=seconds)

    def end(self) -> None:
        """Give up entries that are not stored: they are lost. Call it after closing the writer."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._lazy is not None:
            self._lazy.cancel()
        if self._retry is not None:
            self._retry.cancel()
        left = self._group + [entry for one in self._waiting for entry in one.group]
        if left:
            reason = self._health.reason or "the database does not answer"
            log.error("%d entries are lost at shutdown: %s", len(left), reason)
            self._lose(left, StorageUnavailable(reason))
        self._release()
        self._fail_flushes("the gateway is shut down")
        self._waiting.clear()
        self._health.waiting = self._health.waiting_bytes = 0

    def _degrade(self, reason: str) -> None:
        if self._health.state == "ok":
            log.error("storage is degraded, calls go on without it: %s", reason)
        self._health.state, self._health.reason = "degraded", reason
        self._release()
        self._fail_flushes(reason)

    def _refuse(self, group: Group) -> None:
        reason = "the backlog is full (storage.backlog_bytes)"
        if self._active and self._health.state == "ok":
            self._degrade(reason)
        elif not self._active:
            log.error("what a call left is lost: it is more than storage.backlog_bytes")
        self._lose(group, StorageUnavailable(reason))

    def _lose(self, group: Group, error: StorageUnavailable) -> None:
        self._health.lost += len(group)
        for entry in group:
            notify_lost(entry, error)

    def _hand_over(self) -> None:
        """Pass up to MAX_GROUP_CALLS waiting calls to the writer, as one group."""
        waiting = self._waiting
        if not waiting:
            return
        self._writing, self._waiting = waiting[:MAX_GROUP_CALLS], waiting[MAX_GROUP_CALLS:]
        self._group = [entry for left in self._writing for entry in left.group]
        self._urgent = bool(self._flushes)
        if self._waiting and not self._urgent:
            self._urgent = not all(left.lazy for left in self._waiting)
        if self._health.state == "ok":  # the first call has waited longest
            self._due = self._writing[0].since + self._settings.commit_timeout
            if self._timer is None:
                self._timer = self._loop.call_at(self._due, self._look_at_the_time)
        self._write()

    def _write(self) -> None:
        self._retry = None
        group, tally = self._group, Tally()
        self._writer.submit(
            partial(commit, group=group, tally=tally), partial(self._done, tally, _size(group))
        )

    def _look_at_the_time(self) -> None:
        """Degrade if the group takes too long. One timer serves many groups, as few take long."""
        self._timer = None
        if self._due == math.inf:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._look_at_the_time)
            return
        self._due = math.inf
        self._health.slow += 1
        self._degrade(f"a commit takes longer than {self._settings.commit_timeout} s")

    def _release(self) -> None:
        """Release all calls that wait, for the group being written or for a later one."""
        _release(self._writing)
        _release(self._waiting)

    def _done(self, tally: Tally, size: int, _: None, error: BaseException | None) -> None:
        if self._ended:
            return
        left = _size(self._group) if error is not None else 0
        self._health.waiting -= tally.committed + tally.lost
        self._health.waiting_bytes -= size - left
        self._health.committed += tally.committed
        self._health.lost += tally.lost
        if error is None:
            self._succeeded(tally)
        else:
            self._failed(error)

    def _succeeded(self, tally: Tally) -> None:
        self._due = math.inf
        self._health.groups += tally.committed > 0
        if self._writing:
            self._health.commit_times.add(self._loop.time() - self._writing[0].since)
        self._finished += len(self._writing)
        _release(self._writing)
        self._writing, self._group = [], []
        while self._flushes and self._flushes[0][0] <= self._finished:
            _settle(self._flushes.popleft()[1])
        if self._health.state != "ok":
            self._recover()
        if self._waiting and (self._urgent or self._closing is not None):
            self._hand_over()
            return
        self._active = False
        if self._waiting:
            self._begin_later()
        elif self._closing is not None:
            _settle(self._closing)

    def _recover(self) -> None:
        """Leave the degraded state once the oldest entry is younger than `commit_timeout`."""
        health = self._health
        oldest = self._waiting[0].since if self._waiting else self._loop.time()
        if self._loop.time() - oldest >= self._settings.commit_timeout:
            health.reason = "catching up with what waited"
            return
        log.warning("storage works again; it was degraded: %s", health.reason)
        health.state, health.reason = "ok", ""

    def _failed(self, error: BaseException) -> None:
        """Retry later. Calls keep waiting only if the file is locked, and until the timer fires."""
        if is_busy(error) and self._health.state == "ok":
            self._retry = self._loop.call_later(LOCKED_RETRY_DELAY, self._write)
            return
        self._due = math.inf
        self._degrade(fault_text(error))
        if is_busy(error):
            self._retry = self._loop.call_later(LOCKED_RETRY_DELAY, self._write)
        elif self._closing is not None:
            _settle(self._closing)
        else:
            self._retry = self._loop.call_later(RETRY_DELAY, self._write)

    def _fail_flushes(self, reason: str) -> None:
        while self._flushes:
            flushed = self._flushes.popleft()[1]
            if not flushed.done():
                flushed.set_exception(StorageUnavailable(reason))


def _size(group: Group) -> int:
    size = 0
    for entry in group:
        size += entry.size
    return size


def _release(all_left: list[PendingCall]) -> None:
    for left in all_left:
        released = left.released
        if released is not None and not released.done():
            released.set_result(None)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
