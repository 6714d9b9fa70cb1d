"""How much each key may use: requests and tokens a minute, calls at a time, budgets.

`bucket.py` is the algorithm, `accounts.py` lets calls in; `rules.py` works out which limits a key
has, `need.py` and `estimate.py` what a call costs. `book.py` has what is spent of the budgets in
memory, `ledger.py` in the database, and `keeping.py` brings it from there. `refusing.py` says all
that to callers, `views.py` to operators.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from time import monotonic

from sqlite_utils.migrations import Migrations
from starlette.routing import BaseRoute

from gateway import (
    Call,
    ControlRequest,
    Gateway,
    NotFound,
    Outcome,
    Principal,
    Sample,
    StateKey,
    hookimpl,
)
from gateway_plugins.limits.accounts import Account, Accounts, Visit
from gateway_plugins.limits.book import Book, Spending
from gateway_plugins.limits.estimate import asked_in
from gateway_plugins.limits.keeping import Keeper
from gateway_plugins.limits.ledger import MIGRATIONS, Ledger
from gateway_plugins.limits.need import NOTHING, Need, need_of, used_by
from gateway_plugins.limits.options import Options
from gateway_plugins.limits.refusing import CODES, LimitReached
from gateway_plugins.limits.rules import Rules
from gateway_plugins.limits.views import Asked, KeyState, Page, some_keys, state_of

ANONYMOUS = "anonymous"
"""The key of calls that nobody vouched for."""

SWEEP = 60.0
"""Seconds between two looks for idle accounts."""

ENTRY_BYTES = 500
"""What a call's Spendings hold in memory."""

VISIT: StateKey[Visit] = StateKey("limits")


class Limits:
    """The plugin."""

    after = ("auth",)

    Config = Options

    def __init__(self, config: Options) -> None:
        self._rules = Rules(config)
        self._accounts = Accounts()
        self._book = Book(time.time())
        self._ledger = Ledger()
        self._keeper = Keeper(self._book, self._ledger, lambda: self._rules.have_budgets)
        self._refused = dict.fromkeys(CODES, 0)

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._rules = Rules(config)

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Gateway) -> list[BaseRoute]:
        return [gateway.control("/admin/limits", scope="monitor", GET=self._show)]

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
        await self._keeper.look(gateway.storage)
        tasks = (
            asyncio.create_task(self._keeper.run(gateway.storage)),
            asyncio.create_task(self._sweep()),
        )
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    @hookimpl
    async def admit(self, call: Call) -> None:
        if call.internal:
            return
        key, tier = _whose(call.principal)
        terms = self._rules.terms(key, tier)
        if terms is None:
            return
        need = NOTHING
        if terms.tokens is not None or terms.budgets:
            need = await self._need_of(call)
        now = monotonic()
        account = self._accounts.of(key, terms, now)
        try:
            call.state[VISIT] = account.enter(need, self._book, now)
        except LimitReached as refusal:
            self._refused[refusal.name] += 1
            raise
        finally:
            call.add_lines(*account.lines(now))

    async def _need_of(self, call: Call) -> Need:
        """And see to it that what the call has used will be told."""
        body = call.body.data
        if body is None:
            body = await call.body.read()
        asked = asked_in(body)
        call.count_tokens()
        if asked.stream:
            await call.inject("usage")
        if self._rules.have_budgets:
            self._book.turn(time.time())
        return need_of(call, asked, self._rules.options)

    @hookimpl
    def observe(self, call: Call) -> Visit | None:
        return call.state.get(VISIT)

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        visit = call.state.get(VISIT)
        if visit is None:
            return
        visit.finished(outcome)
        if not visit.need.tokens:
            return
        used = used_by(call, outcome, visit.need, self._rules.options)
        visit.settle(used, monotonic())
        if visit.day is not None and used != NOTHING:
            call.store(self._ledger, _spendings(visit, used), ENTRY_BYTES, lazy=True)

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Calls that were refused because of a limit of their key."
        for name, count in self._refused.items():
            yield Sample("gateway_limits_refused_total", "counter", count, help_, {"limit": name})
        help_ = "Keys that have called lately and have limits."
        yield Sample("gateway_limits_keys", "gauge", len(self._accounts.known), help_)

    @hookimpl
    def health(self) -> str | None:
        return self._keeper.unread or None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            await self._accounts.sweep(monotonic())

    async def _show(self, request: ControlRequest) -> KeyState | Page:
        asked = request.query(Asked)
        self._book.turn(time.time())
        if asked.key is not None:
            return self._state(asked.key)
        keys = list(self._accounts.known)
        found = await asyncio.to_thread(some_keys, keys, asked)
        more = found[asked.limit - 1] if len(found) > asked.limit else None
        known = (key for key in found[: asked.limit] if key in self._accounts.known)
        return Page([self._state(key) for key in known], more)

    def _state(self, key: str) -> KeyState:
        """Of a key that has not called lately: what it may use, without the limits of a tier."""
        account = self._accounts.known.get(key)
        if account is None:
            terms = self._rules.terms(key, None)
            if terms is None:
                raise NotFound(f"the key {key[:200]!r} has no limits", param="key")
            account = Account(key, terms, monotonic())
        return state_of(account, self._book, monotonic())


def _whose(principal: Principal | None) -> tuple[str, str | None]:
    """The key of a call, and its tier."""
    if principal is None:
        return ANONYMOUS, None
    return principal.id, principal.labels.get("tier")


def _spendings(visit: Visit, used: Need) -> tuple[Spending, ...]:
    tabs = (visit.day, visit.month)
    return tuple(
        Spending(visit.account.key, tab.period, used.tokens, used.cost)
        for tab in tabs
        if tab is not None
    )
