"""Limits per key: requests and tokens per minute, concurrent calls, and budgets.

`bucket.py` has the algorithm, and `accounts.py` admits calls; `shared.py` does so if several
processes share the limits. `rules.py` computes the limits of a key, `need.py` and `estimate.py` the
cost of a call. `book.py` holds the spending of the budgets in memory, `ledger.py` stores it in the
database, and reads it from there. `refusing.py` has the errors and headers for
callers, `views.py` the report for operators. `waiting/` lets calls of a key wait for each other.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import Any

import msgspec
from starlette.routing import BaseRoute

from gateway import (
    Call,
    ControlRequest,
    Host,
    Migrations,
    NotFound,
    Outcome,
    Panel,
    PanelRows,
    Principal,
    Sample,
    StateKey,
    Topic,
    hookimpl,
)
from gateway_plugins.limits.accounts import Account, Accounts, Visit
from gateway_plugins.limits.book import Book, Spending
from gateway_plugins.limits.ledger import MIGRATIONS, Keeper, Ledger
from gateway_plugins.limits.need import ZERO_NEED, Need, need_of, used_by
from gateway_plugins.limits.options import Options
from gateway_plugins.limits.refusing import CODES, LimitReached
from gateway_plugins.limits.rules import Rules
from gateway_plugins.limits.shared import Common
from gateway_plugins.limits.views import (
    KeyState,
    Page,
    PageQuery,
    budgets,
    merged,
    some_keys,
    state_of,
)
from gateway_plugins.limits.waiting.lines import Lines, Patience

ANONYMOUS = "anonymous"
"""Key of calls without a principal."""

SWEEP_INTERVAL = 60.0
"""Seconds between two sweeps of idle accounts."""

PAGES_REQUEST = Topic("limits", "accounts")
"""Name under which processes request each other's accounts."""

ENTRY_BYTES = 500
"""Bytes of memory that the Spendings of one call take."""

VISIT: StateKey[Visit] = StateKey("limits")


class Limits:
    """The plugin."""

    after = ("auth", "join_retries")

    Config = Options

    def __init__(self, config: Options) -> None:
        self._rules = Rules(config)
        self._accounts = Accounts()
        self._book = Book(time.time())
        self._ledger = Ledger(self._book.remembers)
        self._keeper = Keeper(self._book, self._ledger, lambda: self._rules.have_budgets)
        self._lines = Lines()
        self._refused = dict.fromkeys(CODES, 0)

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._rules = Rules(config)
        self._lines.look_again()

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        show = partial(self._show, gateway)
        return [gateway.control("/admin/limits", scope="monitor", GET=show)]

    @hookimpl
    def panels(self) -> Sequence[Panel]:
        if not self._rules.have_budgets:
            return []
        title = "Budgets of the keys"
        show = self._show_budgets
        return [Panel(name="budgets", title=title, scope="monitor", read=show, live=False)]

    async def _show_budgets(self, limit: int) -> PanelRows:
        """Return the budgets of keys that have spent something, or have limits of their own."""
        book, rules, now = self._book, self._rules, time.time()
        book.roll_over(now)
        keys: dict[str, str | None] = dict.fromkeys((*rules.options.keys, *book.month.tabs))
        for key, one in self._accounts.known.items():
            keys[key] = None if one.principal is None else one.principal.labels.get("tier")
        return await asyncio.to_thread(budgets, keys.items(), rules, book, now, limit)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        await self._keeper.look(gateway.storage)
        async with contextlib.AsyncExitStack() as stack:
            _keep_running(stack, self._keeper.run(gateway.storage))
            _keep_running(stack, self._sweep())
            peers = gateway.peers
            place = peers.file("limits")
            if place is not None:
                self._lines = Lines(peers.index, peers.count)
                common = Common(place, peers.index, peers.count)
                stack.callback(common.close)
                self._accounts = Accounts(common.account)
                _keep_running(stack, common.run())
                peers.handle(PAGES_REQUEST, self._page_for_another)
            yield

    @hookimpl
    def admit(self, call: Call) -> Awaitable[None] | None:
        of_nobody = call.internal and call.principal is None  # one of the gateway's own jobs
        account = None if of_nobody else self._account_of(call.principal)
        if account is None:
            return None
        terms, need = account.terms, ZERO_NEED
        if terms.tokens is not None or terms.budgets:
            if call.body.data is None:
                return self._read_and_admit(call)
            call.count_tokens()
            if call.streams:
                call.inject("usage")  # at once, as the body has been read
            need = need_of(call, self._rules.options)
        if terms.budgets:
            self._book.roll_over(time.time())
        if terms.patience is not None and not account.exempt:
            return self._wait_for_place(call, account.key, terms.patience, need)
        now = monotonic()
        try:
            self._enter(call, account, need, now)
        except LimitReached as refusal:
            self._refused[refusal.name] += 1
            raise
        finally:
            call.add_lines(*account.lines(now))
        return None

    async def _read_and_admit(self, call: Call) -> None:
        await call.body.read()
        if (waiting := self.admit(call)) is not None:
            await waiting

    def _account_of(self, principal: Principal | None) -> Account | None:
        """Return the account of a key, by the limits in force now; None if the key has none."""
        key = ANONYMOUS if principal is None else principal.id
        account, rules = self._accounts.known.get(key), self._rules
        if account is None or account.principal is not principal or account.rules is not rules:
            terms = rules.terms(key, None if principal is None else principal.labels.get("tier"))
            if terms is None:
                return None
            account = self._accounts.of(key, terms, monotonic())
            account.principal, account.rules = principal, rules
            account.exempt = rules.exempt(principal)
        return account

    async def _wait_for_place(self, call: Call, key: str, patience: Patience, need: Need) -> None:
        def attempt() -> None:
            account = self._account_of(call.principal)
            if account is not None:
                self._enter(call, account, need, monotonic())

        try:
            await self._lines.enter(key, patience, attempt)
        except LimitReached as refusal:
            self._refused[refusal.name] += 1
            raise
        finally:
            account = self._accounts.known.get(key)
            if account is not None:
                call.add_lines(*account.lines(monotonic()))

    def _enter(self, call: Call, account: Account, need: Need, now: float) -> None:
        """Take the place of a call in its key's account. Raises LimitReached."""
        visit = account.enter(need, self._book, now)
        visit.lines = self._lines  # a reload may let calls wait for this one
        call.state[VISIT] = visit

    @hookimpl
    def observe(self, call: Call) -> Visit | None:
        return call.state.get(VISIT)

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        visit = call.state.get(VISIT)
        if visit is None:
            return
        if visit.held:
            visit.finished(outcome)
        if not visit.need.tokens:
            return
        used = used_by(call, outcome, visit.need, self._rules.options)
        visit.settle(used, monotonic())
        if visit.day is not None and used != ZERO_NEED:
            call.store(self._ledger, _spendings(visit, used), ENTRY_BYTES, lazy=True)

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Calls that were refused because of a limit of their key."
        for name, count in self._refused.items():
            yield Sample("gateway_limits_refused_total", "counter", count, help_, {"limit": name})
        help_ = "Calls that wait for another call of their key to end."
        yield Sample("gateway_limits_waiting", "gauge", len(self._lines), help_)
        help_ = "Keys that have called lately and have limits."
        keys = len(self._accounts.known)
        yield Sample("gateway_limits_keys", "gauge", keys, help_, merge="max")

    @hookimpl
    def health(self) -> str | None:
        return self._keeper.unread or None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            await self._accounts.sweep(monotonic())

    async def _show(self, gateway: Host, request: ControlRequest) -> KeyState | Page:
        """Merge the accounts of all processes; each process knows the keys that have called it."""
        query = request.query(PageQuery)
        others = await gateway.peers.request(PAGES_REQUEST, msgspec.msgpack.encode(query))
        pages = [msgspec.msgpack.decode(one, type=Page) for one in others]
        page = merged([await self._page(query), *pages], query.limit)
        if query.key is None:
            return page
        return page.keys[0] if page.keys else self._rested(query.key)

    async def _page_for_another(self, request: bytes) -> bytes:
        """Return this process's page to another process."""
        return msgspec.msgpack.encode(
            await self._page(msgspec.msgpack.decode(request, type=PageQuery))
        )

    async def _page(self, query: PageQuery) -> Page:
        self._book.roll_over(time.time())
        found = await self._keys(query)
        more = found[query.limit - 1] if len(found) > query.limit else None
        known = (self._accounts.known.get(key) for key in found[: query.limit])
        now = monotonic()
        return Page([state_of(one, self._book, now) for one in known if one is not None], more)

    async def _keys(self, query: PageQuery) -> list[str]:
        if query.key is not None:
            return [query.key]
        return await asyncio.to_thread(some_keys, list(self._accounts.known), query)

    def _rested(self, key: str) -> KeyState:
        """Return the state of a key that has not called lately, without the limits of a tier.

        Raises NotFound if the key has no limits.
        """
        terms = self._rules.terms(key, None)
        if terms is None:
            raise NotFound(f"the key {key[:200]!r} has no limits", param="key")
        return state_of(Account(key, terms, monotonic()), self._book, monotonic())


def _keep_running(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until the stack exits."""
    stack.callback(asyncio.create_task(work).cancel)


def _spendings(visit: Visit, used: Need) -> tuple[Spending, ...]:
    tabs = (visit.day, visit.month)
    return tuple(
        Spending(visit.account.key, tab.period, used.tokens, used.cost)
        for tab in tabs
        if tab is not None
    )
