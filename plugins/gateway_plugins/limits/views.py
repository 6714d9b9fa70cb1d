"""State of the limits for operators: GET /admin/limits, and the budgets as a table for people."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from time import time
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway import Cell, PanelRows
from gateway_plugins.limits.accounts import Account
from gateway_plugins.limits.book import Book, Tab
from gateway_plugins.limits.refusing import Code
from gateway_plugins.limits.rules import Budget, Rules


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Query for one `key`, or for at most `limit` keys after the key `cursor`, by name."""

    key: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    cursor: str = ""


class LimitState(msgspec.Struct):
    """How much of a limit is left, and the seconds until the whole limit is available again.

    `resets_in` is null if that is unknown. Costs are in the currency of `prices`.
    """

    limit: float
    remaining: float
    resets_in: float | None = None


class KeyState(msgspec.Struct):
    """Current state of one key. `limits` are by error code."""

    key: str
    in_flight: int
    limits: dict[Code, LimitState]


class Page(msgspec.Struct):
    """One page of keys. `next` is the cursor of the next page; null if there is none."""

    keys: list[KeyState]
    next: str | None


def some_keys(keys: list[str], query: PageQuery) -> list[str]:
    """Return the keys of the page, and one more if there is another page."""
    return heapq.nsmallest(query.limit + 1, (key for key in keys if key > query.cursor))


def merged(pages: list[Page], limit: int) -> Page:
    """Merge the same page of several processes; the first process that knows a key wins."""
    states = {state.key: state for page in reversed(pages) for state in page.keys}
    end = min((page.next for page in pages if page.next is not None), default=None)
    keys = sorted(key for key in states if end is None or key <= end)
    if len(keys) > limit:
        end = keys[limit - 1]
    return Page([states[key] for key in keys[:limit]], end)


def state_of(account: Account, book: Book, now: float) -> KeyState:
    """Return the state of an account; `now` is in monotonic seconds."""
    account.look(now)
    return KeyState(account.key, account.in_flight, dict(_states(account, book, now)))


def _states(account: Account, book: Book, now: float) -> Iterator[tuple[Code, LimitState]]:
    terms = account.terms
    for flow, bucket in ((terms.requests, account.requests), (terms.tokens, account.tokens)):
        if flow is not None and bucket is not None:
            left = bucket.refill(now)
            yield flow.code, LimitState(flow.limit, left, bucket.until_full(now))
    if terms.concurrent is not None:
        left = terms.concurrent - account.in_flight
        yield "concurrent_calls", LimitState(terms.concurrent, left)
    for budget in terms.budgets:
        left = (budget.limit - account.spent(budget, book)) / budget.unit
        ends = (book.day if budget.of_day else book.month).ends
        yield budget.code, LimitState(budget.limit / budget.unit, left, max(ends - time(), 0))


def budgets(
    keys: Iterable[tuple[str, str | None]], rules: Rules, book: Book, now: float, limit: int
) -> PanelRows:
    """Return what keys have spent of their budgets, the fullest budgets first.

    `keys` are ids with their tiers, None: not known; `now` is in Unix seconds. May run in a thread.
    """
    found = [row for key, tier in keys for row in _budgets_of(key, tier, rules, book, now)]
    return PanelRows(heapq.nlargest(limit, found, key=_share), len(found))


def _share(row: Mapping[str, Cell]) -> float:
    share = row["used_share"]
    assert isinstance(share, float)
    return share


def _budgets_of(
    key: str, tier: str | None, rules: Rules, book: Book, now: float
) -> Iterator[Mapping[str, Cell]]:
    terms = rules.terms(key, tier)
    for budget in () if terms is None else terms.budgets:
        span = book.day if budget.of_day else book.month
        tab = span.tabs.get(key)
        spent = 0 if tab is None else _of(budget, tab)
        yield {
            "key": key,
            "budget": budget.code,
            "used_share": spent / budget.limit if budget.limit else 1.0,
            "spent": spent / budget.unit,
            "allowed": budget.limit / budget.unit,
            "new_budget_in_s": max(span.ends - now, 0.0),
        }


def _of(budget: Budget, tab: Tab) -> int:
    return tab.all_cost if budget.of_cost else tab.all_tokens
