"""Accounts of the keys that have called lately: current use, and admission of calls."""

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

import msgspec

from gateway import Principal
from gateway_plugins.limits.book import Book, Tab
from gateway_plugins.limits.bucket import Bucket
from gateway_plugins.limits.need import ZERO_NEED, Need
from gateway_plugins.limits.refusing import Line, budget_exceeded, too_fast, too_many_at_once
from gateway_plugins.limits.rules import Budget, Flow, Rules, Terms
from gateway_plugins.limits.waiting.lines import Lines

SWEEP_BATCH = 500
"""Accounts to process in one turn of the event loop."""


class Visit(msgspec.Struct, eq=False):
    """One call of a key while it runs: what it took and has to give back.

    The visit is the call's observer if the key has limits, so that `finished` releases the slot
    before any plugin can wait, for a call that waits in the `lines`. `held`: the slot is taken.
    `exempt`: no limit could reject the call.
    """

    account: "Account"
    need: Need
    taken: float
    exempt: bool = False
    day: Tab | None = None
    month: Tab | None = None
    lines: Lines | None = None
    held: bool = True

    def finished(self, outcome: object) -> None:
        """Release the slot, on the first call only."""
        if self.held:
            self.held = False
            self.account.leave()
            if self.lines is not None and self.lines.there:
                self.lines.freed(self.account.key)

    def settle(self, used: Need, now: float) -> None:
        """Replace the estimated need of the call with its actual use."""
        self.account.settle(self, used, now)
        if self.day is not None and self.month is not None:
            tokens, cost = used.tokens - self.need.tokens, used.cost - self.need.cost
            self.day.add(tokens, cost)
            self.month.add(tokens, cost)


class Account:
    """One key. Times are monotonic seconds.

    `elsewhere`: tokens and cost of budgets that calls of other processes may take and have not
    recorded yet. `terms` are those that `rules` have for `principal`, the latest caller; `rules` is
    None if nobody has called yet. `exempt`: calls of this caller are counted, and never rejected.
    """

    __slots__ = (
        "__weakref__",
        "elsewhere",
        "exempt",
        "in_flight",
        "key",
        "principal",
        "requests",
        "rules",
        "terms",
        "tokens",
    )

    def __init__(self, key: str, terms: Terms, now: float) -> None:
        self.key = key
        self.terms = terms
        self.exempt = False
        self.in_flight = 0
        self.elsewhere = ZERO_NEED
        self.rules: Rules | None = None
        self.principal: Principal | None = None
        self.requests = bucket_of(terms.requests, None, now)
        self.tokens = bucket_of(terms.tokens, None, now)

    def look(self, now: float) -> None:
        """Update the account, if other processes can change it too."""

    def change(self, terms: Terms, now: float) -> None:
        """Replace the limits from now on; past use still counts."""
        self.terms = terms
        self.requests = bucket_of(terms.requests, self.requests, now)
        self.tokens = bucket_of(terms.tokens, self.tokens, now)

    def enter(self, need: Need, book: Book, now: float) -> Visit:
        """Admit a call. Raises LimitReached, and takes nothing, if a limit is reached.

        Raises nothing for an exempt caller.
        """
        terms, requests, tokens = self.terms, self.requests, self.tokens
        if terms.budgets and not self.exempt:
            self._check_budgets(need, book)
        taken: float = need.tokens
        if (
            (requests is None or requests.refill(now) >= 1)
            and (tokens is None or tokens.refill(now) >= taken)
            and (terms.concurrent is None or self.in_flight < terms.concurrent)
        ):
            if requests is not None:
                requests.level -= 1
            if tokens is not None:
                tokens.level -= taken
        else:
            taken = self._drain(need, now) if self.exempt else self._take(need, now)
        self.in_flight += 1
        visit = Visit(self, need, 0.0 if tokens is None else taken, self.exempt)
        if terms.budgets:
            visit.day, visit.month = book.day.tab(self.key), book.month.tab(self.key)
            visit.day.add(need.tokens, need.cost)
            visit.month.add(need.tokens, need.cost)
        return visit

    def leave(self) -> None:
        """Release the slot of a call that was admitted."""
        self.in_flight -= 1

    def settle(self, visit: Visit, used: Need, now: float) -> None:
        """Replace the tokens that the call took from the bucket with those it used.

        An exempt call takes what there is at most, so that it leaves the key's others no debt.
        """
        if self.tokens is None:
            return
        if visit.exempt and used.tokens > visit.taken:
            self.tokens.drain(used.tokens - visit.taken, now)
        else:
            self.tokens.settle(visit.taken, used.tokens, now)

    def _drain(self, need: Need, now: float) -> float:
        """Take what there is for an exempt call; return the tokens taken."""
        if self.requests is not None:
            self.requests.drain(1, now)
        return 0.0 if self.tokens is None else self.tokens.drain(need.tokens, now)

    def _take(self, need: Need, now: float) -> float:
        """Return the tokens taken for a call that needs more than a full bucket has.

        Raises LimitReached if a limit is reached.
        """
        self._check(need, now)
        if self.requests is not None:
            self.requests.take(1)
        return 0.0 if self.tokens is None else self.tokens.take(need.tokens)

    def _check(self, need: Need, now: float) -> None:
        requests, tokens, concurrent = self.terms[:3]
        if requests is not None and self.requests is not None:
            wait = self.requests.wait(1, now)
            if wait:
                raise too_fast(requests.code, requests.limit, wait)
        if tokens is not None and self.tokens is not None:
            wait = self.tokens.wait(need.tokens, now) if need.tokens else 0.0
            if wait:
                raise too_fast(tokens.code, tokens.limit, wait)
        if concurrent is not None and self.in_flight >= concurrent:
            raise too_many_at_once(concurrent)

    def _check_budgets(self, need: Need, book: Book) -> None:
        for budget in self.terms.budgets:
            left = budget.limit - self.spent(budget, book)
            needed = need.cost if budget.of_cost else need.tokens
            if needed > max(left, 0):
                span = book.day if budget.of_day else book.month
                unit = budget.unit
                raise budget_exceeded(
                    budget.code, budget.limit / unit, left / unit, needed / unit, span.ends
                )

    def spent(self, budget: Budget, book: Book) -> int:
        """Amount of a budget that calls of this key have taken, including calls in flight."""
        span = book.day if budget.of_day else book.month
        tab = span.tabs.get(self.key)
        if budget.of_cost:
            return self.elsewhere.cost + (0 if tab is None else tab.all_cost)
        return self.elsewhere.tokens + (0 if tab is None else tab.all_tokens)

    def lines(self, now: float) -> Sequence[Line]:
        """Headers that report how much is left."""
        flow, bucket = self.terms.requests, self.requests
        of_requests = () if flow is None or bucket is None else flow.lines.of(bucket, now)
        flow, bucket = self.terms.tokens, self.tokens
        if flow is None or bucket is None:
            return of_requests
        return (*of_requests, *flow.lines.of(bucket, now))

    def is_idle(self, now: float) -> bool:
        """Whether a new account would have the same state."""
        return self.is_whole(now) and not self.in_flight

    def is_whole(self, now: float) -> bool:
        """Whether all buckets are full."""
        buckets = (self.requests, self.tokens)
        return all(one is None or one.refill(now) >= one.capacity for one in buckets)


class Accounts:
    """All known accounts, each from its key's first call until a sweep finds the key idle.

    A call that has ended may settle only after a sweep: as long as it is there, its account is the
    one of the key's further calls.
    """

    def __init__(self, make: Callable[[str, Terms, float], Account] = Account) -> None:
        self.known: dict[str, Account] = {}
        self._swept: WeakValueDictionary[str, Account] = WeakValueDictionary()
        self._make = make

    def of(self, key: str, terms: Terms, now: float) -> Account:
        account = self.known.get(key)
        if account is None:
            account = self._swept.pop(key, None) or self._make(key, terms, now)
            self.known[key] = account
        if account.terms is not terms:
            account.change(terms, now)
        return account

    async def sweep(self, now: float) -> None:
        """Remove the idle accounts, SWEEP_BATCH accounts at a time."""
        keys = list(self.known)
        for start in range(0, len(keys), SWEEP_BATCH):
            for key in keys[start : start + SWEEP_BATCH]:
                if self.known[key].is_idle(now):
                    self._swept[key] = self.known.pop(key)
            await asyncio.sleep(0)


def bucket_of(flow: Flow | None, before: Bucket | None, now: float) -> Bucket | None:
    if flow is None:
        return None
    if before is None:
        return Bucket(flow.capacity, flow.rate, now)
    before.change(flow.capacity, flow.rate, now)
    return before
