"""Accounts that the processes of one gateway share, each in a row of a shared table.

A row holds the levels of the buckets, then for each process its calls in flight and the budget
amounts that these calls may take. Each process writes its own part alone, from memory, so that a
process that was stopped or killed in the middle of a change leaves nothing wrong for long. The use
of a budget stays in the row until the other processes have surely read it from the database: for a
few seconds they may count it twice, but it never goes uncounted.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from struct import Struct

from gateway import SharedRow, SharedTable
from gateway_plugins.limits import ledger
from gateway_plugins.limits.accounts import SWEEP_BATCH, Account, Visit, bucket_of
from gateway_plugins.limits.book import Book
from gateway_plugins.limits.bucket import Bucket
from gateway_plugins.limits.need import ZERO_NEED, Need
from gateway_plugins.limits.rules import Flow, Terms

LOOKS = 3
"""Reads of the database after which every process has seen an earlier record."""

BUCKETS = Struct("=d4d4d")
"""Time at which both buckets will be full, in monotonic seconds; then, for requests and for tokens:
time, level, capacity (0 if there is no bucket) and rate."""

COUNT = Struct("=3d")
"""Calls in flight of one process, and the tokens and cost that they may take."""

COUNTS = BUCKETS.size
"""Offset of the first process's count."""

ZERO = (0.0, 0.0, 0.0)

Numbers = Sequence[float]


class SharedAccount(Account):
    """One key in all processes; the state is the one last read from the row.

    If the table has no room for a row, this process counts alone.
    """

    __slots__ = ("_all", "_alone", "_common", "_own", "_row")

    def __init__(self, common: "Common", key: str, terms: Terms, now: float) -> None:
        super().__init__(key, terms, now)
        self._common = common
        self._row: SharedRow = common.table.row(key, self._store_counts)
        self._alone = False
        self._all: Numbers = ZERO
        self._own: Numbers = ZERO

    def look(self, now: float) -> None:
        with self._row:
            self._load(now)

    def change(self, terms: Terms, now: float) -> None:
        super().change(terms, now)
        with self._row:
            self._load(now)
            self._store()

    def enter(self, need: Need, book: Book, now: float) -> Visit:
        with self._row:
            self._load(now)
            visit = super().enter(need, book, now)
            self._add(1, ZERO_NEED if visit.day is None else need)
            self._store()
        return visit

    def leave(self) -> None:
        with self._row:
            self._load_counts()
            self._add(-1, ZERO_NEED)
            self._store_counts()

    def settle(self, visit: Visit, used: Need, now: float) -> None:
        with self._row:
            self._load_buckets()
            self._load_counts()
            super().settle(visit, used, now)
            if visit.day is not None:
                self._add(0, used, visit.need)
                self._common.recorded(self, used)
            self._store()

    def forget(self, used: Need) -> None:
        """Remove `used` from the row: all processes have read it from the database."""
        with self._row:
            self._load_counts()
            self._add(0, ZERO_NEED, used)
            self._store_counts()

    def is_idle(self, now: float) -> bool:
        """Whether a new account would have the same state here; the row stays as it is."""
        return self.is_whole(now) and not any(self._own)

    def _load(self, now: float) -> None:
        """Load the row and apply this process's limits.

        The process that stored the row may have had other limits.
        """
        whole = self._load_buckets()
        self._load_counts()
        self._show()
        rests = whole <= now and not any(self._all)
        self.requests = _following(self.terms.requests, None if rests else self.requests, now)
        self.tokens = _following(self.terms.tokens, None if rests else self.tokens, now)

    def _load_buckets(self) -> float:
        """Load the buckets; return the time at which both will be full.

        inf, with the buckets unchanged, if there is no row. The same holds if the row is new and
        this process counted alone before.
        """
        stored = self._row.read(BUCKETS)
        if stored is None or (self._alone and not stored[0]):
            self._alone = True
            return math.inf
        self._alone = False
        self.requests = _filled(self.requests, stored[1:5])
        self.tokens = _filled(self.tokens, stored[5:9])
        whole: float = stored[0]
        return whole

    def _load_counts(self) -> None:
        """Load the counts of the others; what this process has is in memory."""
        counts = self._row.read(self._common.counts, COUNTS)
        if counts is None:
            self._all = self._own
            return
        stored = counts[self._common.own : self._common.own + 3]
        everybody = sum(counts[::3]), sum(counts[1::3]), sum(counts[2::3])
        self._all = _sum(everybody, self._own, stored)

    def _add(self, calls: int, more: Need, less: Need = ZERO_NEED) -> None:
        """Change the counts of this process and of all: calls in flight, tokens and cost.

        Adds `calls` and `more`, and subtracts `less`.
        """
        change = calls, more.tokens, more.cost
        taken = 0, less.tokens, less.cost
        self._all, self._own = _sum(self._all, change, taken), _sum(self._own, change, taken)

    def _show(self) -> None:
        everybody, own = self._all, self._own
        self.in_flight = int(everybody[0])
        if self.terms.budgets:
            self.elsewhere = Need(int(everybody[1] - own[1]), int(everybody[2] - own[2]))

    def _store(self) -> None:
        whole = max(_whole_at(self.requests), _whole_at(self.tokens))
        self._row.write(BUCKETS, (whole, *_state(self.requests), *_state(self.tokens)))
        self._store_counts()

    def _store_counts(self) -> None:
        self._row.write(COUNT, self._own, self._common.place)


class Common:
    """Table of one gateway's accounts, a file at `place`, for the process `index` of `count`.

    Takes back what a dead process with the same index had in flight. Raises OSError if the table
    cannot be created.
    """

    def __init__(self, place: Path, index: int, count: int) -> None:
        self.counts = Struct(f"={3 * count}d")
        self.own = 3 * index
        self.place = COUNTS + COUNT.size * index
        self.table = SharedTable(place, COUNTS + self.counts.size, self._resting)
        self._recorded: deque[dict[SharedAccount, Need]] = deque({} for _ in range(LOOKS))
        for row in self.table.in_use():
            row.write(COUNT, ZERO, self.place)

    def _resting(self, row: bytes) -> float:
        whole: float = BUCKETS.unpack_from(row)[0]
        return math.inf if any(self.counts.unpack_from(row, COUNTS)) else whole

    def account(self, key: str, terms: Terms, now: float) -> SharedAccount:
        return SharedAccount(self, key, terms, now)

    def recorded(self, account: SharedAccount, used: Need) -> None:
        """Note that `used` is on its way into the database."""
        latest = self._recorded[-1]
        before = latest.get(account, ZERO_NEED)
        latest[account] = Need(before.tokens + used.tokens, before.cost + used.cost)

    async def run(self) -> None:
        """Call `turn` at the interval of the database reads, until cancelled."""
        while True:
            await asyncio.sleep(ledger.READ_INTERVAL)
            await self.turn()

    async def turn(self) -> None:
        """Count one more read of the database.

        All processes have now seen what was recorded LOOKS reads ago, so it leaves the rows.
        """
        self._recorded.append({})
        known = self._recorded[0]
        while known:
            account, used = known.popitem()
            account.forget(used)
            if not len(known) % SWEEP_BATCH:
                await asyncio.sleep(0)
        self._recorded.popleft()

    def close(self) -> None:
        for recorded in self._recorded:
            for account, used in recorded.items():
                account.forget(used)
        self.table.close()


def _sum(one: Numbers, more: Numbers, less: Numbers) -> Numbers:
    return (one[0] + more[0] - less[0], one[1] + more[1] - less[1], one[2] + more[2] - less[2])


def _filled(bucket: Bucket | None, state: Numbers) -> Bucket | None:
    """Return the bucket with the stored state; None if none was stored."""
    at, level, capacity, rate = state
    if not capacity:
        return None
    if bucket is None:
        bucket = Bucket(capacity, rate, at)
    bucket.at, bucket.level, bucket.capacity, bucket.rate = at, level, capacity, rate
    return bucket


def _following(flow: Flow | None, bucket: Bucket | None, now: float) -> Bucket | None:
    """Return the bucket with the capacity and rate of `flow`."""
    if flow is None or bucket is None or bucket.capacity != flow.capacity:
        return bucket_of(flow, bucket, now)
    return bucket if bucket.rate == flow.rate else bucket_of(flow, bucket, now)


def _state(bucket: Bucket | None) -> Numbers:
    return (
        (0, 0, 0, 0) if bucket is None else (bucket.at, bucket.level, bucket.capacity, bucket.rate)
    )


def _whole_at(bucket: Bucket | None) -> float:
    return 0 if bucket is None else bucket.at + (bucket.capacity - bucket.level) / bucket.rate
