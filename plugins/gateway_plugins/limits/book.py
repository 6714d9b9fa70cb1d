"""Spending of the keys today and this month, in memory; days and months are UTC.

A period is a number: 20260131 is a day, and 20260100 the whole month, so that both sort by time.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

MAX_SPANS = 3
"""Days, and months, that a book remembers: so many a clock can visit and come back from."""


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

    It runs from `begins` to `ends`, Unix times; at `ends` the next day or month begins.
    """

    __slots__ = ("begins", "ends", "period", "tabs")

    def __init__(self, period: int, begins: float, ends: float) -> None:
        self.period = period
        self.begins = begins
        self.ends = ends
        self.tabs: dict[str, Tab] = {}

    def contains(self, now: float) -> bool:
        return self.begins <= now < self.ends

    def tab(self, key: str) -> Tab:
        found = self.tabs.get(key)
        if found is None:
            found = self.tabs[key] = Tab(self.period)
        return found


class Book:
    """The day and the month of the clock.

    The latest MAX_SPANS days and months are remembered, because a clock that is set wrong for a
    moment comes back: what was spent then still counts. Calls that began in an earlier one keep
    its tabs.
    """

    def __init__(self, now: float) -> None:
        self.day = _day_of(now)
        self.month = _month_of(now)
        self._days = {self.day.period: self.day}
        self._months = {self.month.period: self.month}

    def roll_over(self, now: float) -> None:
        """Change to the day and the month of `now`, whether the clock went on or back."""
        if not self.day.contains(now):
            self.day = _known(self._days, _day_of(now))
        if not self.month.contains(now):
            self.month = _known(self._months, _month_of(now))

    def remembers(self, period: int) -> bool:
        """Whether the tabs of `period` are in memory."""
        return period in self._days or period in self._months

    def learn(self, others: Iterable[Spending]) -> None:
        """Set the totals that other processes have spent, by key and period."""
        for one in others:
            span = self._days.get(one.period) or self._months.get(one.period)
            if span is not None:
                tab = span.tab(one.key)
                tab.others_tokens, tab.others_cost = one.tokens, one.cost


def _known(spans: dict[int, Span], span: Span) -> Span:
    """Return the remembered span of the same period, else `span`; remember it as the latest."""
    found = spans.pop(span.period, span)
    spans[found.period] = found
    if len(spans) > MAX_SPANS:
        del spans[next(iter(spans))]
    return found


def periods_of(now: float) -> tuple[int, int]:
    """Return the day and the month of a Unix time as periods."""
    at = datetime.fromtimestamp(now, UTC)
    month = (at.year * 100 + at.month) * 100
    return month + at.day, month


def _day_of(now: float) -> Span:
    at = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ends = at + timedelta(days=1)
    return Span(periods_of(now)[0], at.timestamp(), ends.timestamp())


def _month_of(now: float) -> Span:
    at = datetime.fromtimestamp(now, UTC)
    year, month = (at.year, at.month + 1) if at.month < 12 else (at.year + 1, 1)
    begins, ends = datetime(at.year, at.month, 1, tzinfo=UTC), datetime(year, month, 1, tzinfo=UTC)
    return Span(periods_of(now)[1], begins.timestamp(), ends.timestamp())
