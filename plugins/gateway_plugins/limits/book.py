"""Spending of the keys today and this month, in memory; days and months are UTC.

A period is a number: 20260131 is a day, and 20260100 the whole month, so that both sort by time.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple


class Spending(NamedTuple):
    """Tokens that a key has spent in a period, and their cost in billionths."""

    key: str
    period: int
    tokens: int
    cost: int


class Tab:
    """One key in one period: what calls of this process took, and what other processes recorded.

    `tokens` and `cost` include what calls in flight may take.
    """

    __slots__ = ("cost", "others_cost", "others_tokens", "period", "tokens")

    def __init__(self, period: int) -> None:
        self.period = period
        self.tokens = self.cost = 0
        self.others_tokens = self.others_cost = 0

    def add(self, tokens: int, cost: int) -> None:
        self.tokens += tokens
        self.cost += cost

    @property
    def all_tokens(self) -> int:
        return self.tokens + self.others_tokens

    @property
    def all_cost(self) -> int:
        return self.cost + self.others_cost


class Span:
    """A day or a month: the tabs of the keys that have spent something in it.

    `ends`: Unix time at which the next day or month begins.
    """

    __slots__ = ("ends", "period", "tabs")

    def __init__(self, period: int, ends: float) -> None:
        self.period = period
        self.ends = ends
        self.tabs: dict[str, Tab] = {}

    def tab(self, key: str) -> Tab:
        found = self.tabs.get(key)
        if found is None:
            found = self.tabs[key] = Tab(self.period)
        return found


class Book:
    """The current day and month.

    Earlier ones are dropped; calls that began in them keep their tabs.
    """

    def __init__(self, now: float) -> None:
        self.day = _day_of(now)
        self.month = _month_of(now)

    def roll_over(self, now: float) -> None:
        """Begin a new day or month if its time has come; a clock that goes back is ignored."""
        if now >= self.day.ends:
            self.day = _day_of(now)
        if now >= self.month.ends:
            self.month = _month_of(now)

    def learn(self, others: Iterable[Spending]) -> None:
        """Set the totals that other processes have spent, by key and period."""
        for one in others:
            span = self.day if one.period == self.day.period else self.month
            if one.period == span.period:
                tab = span.tab(one.key)
                tab.others_tokens, tab.others_cost = one.tokens, one.cost


def periods_of(now: float) -> tuple[int, int]:
    """Return the day and the month of a Unix time as periods."""
    at = datetime.fromtimestamp(now, UTC)
    month = (at.year * 100 + at.month) * 100
    return month + at.day, month


def _day_of(now: float) -> Span:
    at = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Span(periods_of(now)[0], (at + timedelta(days=1)).timestamp())


def _month_of(now: float) -> Span:
    at = datetime.fromtimestamp(now, UTC)
    year, month = (at.year, at.month + 1) if at.month < 12 else (at.year + 1, 1)
    return Span(periods_of(now)[1], datetime(year, month, 1, tzinfo=UTC).timestamp())
