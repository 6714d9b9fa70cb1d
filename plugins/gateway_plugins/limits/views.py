"""What operators see of the limits: GET /admin/limits."""

import heapq
from collections.abc import Iterator
from time import time
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway_plugins.limits.accounts import Account
from gateway_plugins.limits.book import Book
from gateway_plugins.limits.refusing import Code


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """One `key`, or at most `limit` of all those after the key `cursor`, in the order of names."""

    key: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    cursor: str = ""


class LimitState(msgspec.Struct):
    """How much of a limit is left, and in how many seconds it will be whole again.

    `resets_in` is null where nobody can tell. Costs are in the currency of `prices`.
    """

    limit: float
    remaining: float
    resets_in: float | None = None


class KeyState(msgspec.Struct):
    """One key now. `limits` are by the codes that refusals have."""

    key: str
    in_flight: int
    limits: dict[Code, LimitState]


class Page(msgspec.Struct):
    """`next` is the cursor of the page after this one, null: there is none."""

    keys: list[KeyState]
    next: str | None


def some_keys(keys: list[str], asked: Asked) -> list[str]:
    """The page's, and one more where there is another page."""
    return heapq.nsmallest(asked.limit + 1, (key for key in keys if key > asked.cursor))


def merged(pages: list[Page], limit: int) -> Page:
    """One page of the same page of several processes; the first that knows a key is believed."""
    states = {state.key: state for page in reversed(pages) for state in page.keys}
    end = min((page.next for page in pages if page.next is not None), default=None)
    keys = sorted(key for key in states if end is None or key <= end)
    if len(keys) > limit:
        end = keys[limit - 1]
    return Page([states[key] for key in keys[:limit]], end)


def state_of(account: Account, book: Book, now: float) -> KeyState:
    """`now` is monotonic."""
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
        left = (budget.most - account.spent(budget, book)) / budget.unit
        ends = (book.day if budget.of_day else book.month).ends
        yield budget.code, LimitState(budget.most / budget.unit, left, max(ends - time(), 0))
