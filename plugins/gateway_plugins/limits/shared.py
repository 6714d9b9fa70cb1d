"""Accounts that the processes of one gateway have in common, each in a row of a shared table.

A row holds the levels of the buckets, how many calls all processes have in flight and what of
budgets they may take, and last of each process its part of that. What a call has used of a budget
stays there until the other processes have surely found it in the database: for a few seconds it
counts twice there, and never not at all.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from struct import Struct

from gateway import SharedRow, SharedTable
from gateway_plugins.limits import keeping
from gateway_plugins.limits.accounts import SLICE, Account, Visit, bucket_of
from gateway_plugins.limits.book import Book
from gateway_plugins.limits.bucket import Bucket
from gateway_plugins.limits.need import NOTHING, Need
from gateway_plugins.limits.rules import Flow, Terms

LOOKS = 3
"""Looks at the database after which every process has found there what was recorded before."""

BUCKETS = Struct("=d4d4d")
"""When both will be whole again, in monotonic seconds; then those of requests and of tokens: time,
level, capacity (0: there is none) and rate."""

COUNT = Struct("=3d")
"""Calls in flight, and tokens and cost that they may take: of all, and of each process."""

ALL = BUCKETS.size

EACH = ALL + COUNT.size
"""Where the first process has its own."""

ZERO = (0.0, 0.0, 0.0)

Numbers = Sequence[float]


class SharedAccount(Account):
    """One key, in all processes; from one look to the next it is as it was found.

    Where the table has no room for its row, this process counts alone.
    """

    __slots__ = ("_all", "_alone", "_common", "_own", "_row")

    def __init__(self, common: "Common", key: str, terms: Terms, now: float) -> None:
        super().__init__(key, terms, now)
        self._common = common
        self._row: SharedRow = common.table.row(key)
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
            self._add(1, NOTHING if visit.day is None else need)
            self._store()
        return visit

    def leave(self) -> None:
        with self._row:
            self._load_counts()
            self._add(-1, NOTHING)
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
        """All processes know by now that so much was used."""
        with self._row:
            self._load_counts()
            self._add(0, NOTHING, used)
            self._store_counts()

    def is_idle(self, now: float) -> bool:
        """Whether a new account would be the same, for this process: the row stays as it is."""
        return self.is_whole(now) and not any(self._own)

    def _load(self, now: float) -> None:
        """As it is, with the limits of this process, which may know others than who stored it."""
        whole = self._load_buckets()
        self._load_counts()
        self._show()
        rests = whole <= now and not any(self._all)
        self.requests = _following(self.terms.requests, None if rests else self.requests, now)
        self.tokens = _following(self.terms.tokens, None if rests else self.tokens, now)

    def _load_buckets(self) -> float:
        """And when they will be whole. A new row has nothing to say to who counted alone."""
        stored = self._row.read(BUCKETS)
        if stored is None or (self._alone and not stored[0]):
            return math.inf
        self.requests = _filled(self.requests, stored[1:5])
        self.tokens = _filled(self.tokens, stored[5:9])
        whole: float = stored[0]
        return whole

    def _load_counts(self) -> None:
        everybody, own = self._row.read(COUNT, ALL), self._row.read(COUNT, self._common.own)
        if everybody is None or own is None:
            self._alone, self._all = True, self._own
        elif self._alone:
            self._alone, self._all = False, _sum(everybody, self._own, own)
        else:
            self._all, self._own = everybody, own

    def _add(self, calls: int, more: Need, less: Need = NOTHING) -> None:
        """To what this process has in flight, and may take."""
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
        """Who dies between the two has its own, and all are summed anew from them."""
        self._row.write(COUNT, self._own, self._common.own)
        self._row.write(COUNT, self._all, ALL)


class Common:
    """The table of one gateway's accounts, a file at `place`, for the process `index` of `count`.

    What one that died in its place had in flight is taken back. Raises OSError where the table
    cannot be made.
    """

    def __init__(self, place: Path, index: int, count: int) -> None:
        self.table = SharedTable(place, EACH + COUNT.size * count, _resting)
        self.own = EACH + COUNT.size * index
        self._places = range(EACH, EACH + COUNT.size * count, COUNT.size)
        self._recorded: deque[dict[SharedAccount, Need]] = deque({} for _ in range(LOOKS))
        for row in self.table.in_use():
            self._mend(row)

    def _mend(self, row: SharedRow) -> None:
        row.write(COUNT, ZERO, self.own)
        counts = [row.read(COUNT, place) or ZERO for place in self._places]
        row.write(COUNT, [sum(column) for column in zip(*counts, strict=True)], ALL)

    def account(self, key: str, terms: Terms, now: float) -> SharedAccount:
        return SharedAccount(self, key, terms, now)

    def recorded(self, account: SharedAccount, used: Need) -> None:
        """So much is on its way into the database."""
        latest = self._recorded[-1]
        before = latest.get(account, NOTHING)
        latest[account] = Need(before.tokens + used.tokens, before.cost + used.cost)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(keeping.LOOK)
            await self.turn()

    async def turn(self) -> None:
        """Another look is over: what was recorded LOOKS before is known to all."""
        self._recorded.append({})
        known = self._recorded[0]
        while known:
            account, used = known.popitem()
            account.forget(used)
            if not len(known) % SLICE:
                await asyncio.sleep(0)
        self._recorded.popleft()

    def close(self) -> None:
        for recorded in self._recorded:
            for account, used in recorded.items():
                account.forget(used)
        self.table.close()


def _resting(row: bytes) -> float:
    whole: float = BUCKETS.unpack_from(row)[0]
    return math.inf if any(COUNT.unpack_from(row, ALL)) else whole


def _sum(one: Numbers, more: Numbers, less: Numbers) -> Numbers:
    return (one[0] + more[0] - less[0], one[1] + more[1] - less[1], one[2] + more[2] - less[2])


def _filled(bucket: Bucket | None, state: Numbers) -> Bucket | None:
    """As it was stored."""
    at, level, capacity, rate = state
    if not capacity:
        return None
    if bucket is None:
        bucket = Bucket(capacity, rate, at)
    bucket.at, bucket.level, bucket.capacity, bucket.rate = at, level, capacity, rate
    return bucket


def _following(flow: Flow | None, bucket: Bucket | None, now: float) -> Bucket | None:
    """The bucket, as `flow` wants it from now on."""
    if flow is None or bucket is None or bucket.capacity != flow.capacity:
        return bucket_of(flow, bucket, now)
    return bucket if bucket.rate == flow.rate else bucket_of(flow, bucket, now)


def _state(bucket: Bucket | None) -> Numbers:
    return (
        (0, 0, 0, 0) if bucket is None else (bucket.at, bucket.level, bucket.capacity, bucket.rate)
    )


def _whole_at(bucket: Bucket | None) -> float:
    return 0 if bucket is None else bucket.at + (bucket.capacity - bucket.level) / bucket.rate
