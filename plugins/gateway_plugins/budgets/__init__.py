"""Budgets of sessions and of runs: calls, tokens, cost and time.

`options.py` has the limits, `need.py` what a call may take and took. `deciding.py` decides about a
call in one transaction over the tables of `ledger.py`. `answering.py` has what callers get of a
budget that is spent, `routes.py` is for operators and trainers.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.routing import BaseRoute

from gateway import (
    Answer,
    BadRequest,
    Call,
    Database,
    Host,
    Migrations,
    Outcome,
    Sample,
    StateKey,
    Storage,
    StorageError,
    hookimpl,
)
from gateway_plugins.budgets import ledger
from gateway_plugins.budgets.answering import can_end, empty_answer, exceeded, in_use
from gateway_plugins.budgets.deciding import Decision, Limit, decide
from gateway_plugins.budgets.ledger import MIGRATIONS, Kind, Ledger, Settled
from gateway_plugins.budgets.need import NOTHING, Amounts, Ask, ask_of, used_by
from gateway_plugins.budgets.options import Budget, Name, Options
from gateway_plugins.budgets.routes import Routes, budget_in

log = logging.getLogger("gateway.budgets")

UPKEEP, CLEAN_INTERVAL = 1.0, 3_600.0
"""Seconds between two looks after reservations, and between two deletions of old rows."""

POLL = 0.5
"""Seconds until a call that waits looks again: calls of other processes end too."""

SIZE = 300
"""Bytes of memory that the end of a call takes."""

DECIDED: StateKey[Decision] = StateKey("budgets")

SPENT: StateKey[Limit] = StateKey("budgets.spent")


class Budgets:
    """The plugin. `given`: some session or run has a budget of its own; `waiting`: calls that wait.

    `options` are the options in force.
    """

    after = ("auth", "sessions", "join_retries")

    Config = Options

    def __init__(self, config: Options) -> None:
        self.options = config
        self.given = True
        self.waiting = 0
        self._owner = uuid.uuid4().hex
        self._ledger = Ledger()
        self._storage: Storage | None = None
        self._freed = asyncio.Event()
        self._running = 0
        self._fault = ""
        self._neglect = ""
        self._stopped: dict[Name, int] = {
            "max_calls": 0,
            "max_tokens": 0,
            "max_completion_tokens": 0,
            "max_cost": 0,
            "max_time": 0,
        }

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self.options = config

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return Routes(gateway, self).all()

    @hookimpl
    def session_put(self, db: Database, session_id: str, metadata: Mapping[str, Any]) -> None:
        """Take the budget and the run that `POST /sessions` has in the metadata."""
        run, budget = metadata.get("run_id"), metadata.get("budget")
        if run is not None:
            ledger.put_in_run(db, session_id, budget_in(run, str, "metadata.run_id"), time.time())
        if budget is not None:
            self.give(db, "session", session_id, budget_in(budget, what="metadata.budget"))
        self.given = self.given or run is not None or budget is not None

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._storage, loop = gateway.storage, asyncio.get_running_loop()
        self._ledger.settled = partial(loop.call_soon_threadsafe, self._freed.set)
        upkeep = asyncio.create_task(self._keep_up(gateway.storage))
        try:
            yield
        finally:
            upkeep.cancel()
            self._ledger.settled = None

    @hookimpl
    def admit(self, call: Call) -> Awaitable[None] | None:
        none = call.session_id is None and call.run_id is None
        if none or call.method != "POST" or not (self.given or self._has_defaults):
            return None
        return self._admit(call)

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None] | None:
        decision = call.state.get(DECIDED)
        if decision is None or decision.completion is None:
            return None
        return self._cap(call, decision.completion)

    @hookimpl
    def handle(self, call: Call) -> Awaitable[Answer] | None:
        limit = call.state.get(SPENT)
        if limit is None:
            return None
        if not can_end(call):
            raise exceeded(limit)
        return empty_answer(call)

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        decision = call.state.get(DECIDED)
        if decision is None:
            return
        del call.state[DECIDED]
        self._running -= 1
        used = used_by(call, outcome, decision.reserved, self.options)
        call.store(self._ledger, self._end(decision, used), SIZE, lazy=True)

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Calls that were refused, or answered with `length`, because a budget was spent."
        for name, count in self._stopped.items():
            yield Sample("gateway_budgets_stopped_total", "counter", count, help_, {"limit": name})
        help_ = "Calls that wait for what calls in flight have reserved of a budget."
        yield Sample("gateway_budgets_waiting", "gauge", self.waiting, help_)
        help_ = "Calls in flight that have reserved a part of a budget."
        yield Sample("gateway_budgets_in_flight", "gauge", self._running, help_)

    @hookimpl
    def health(self) -> str | None:
        return self._fault or self._neglect or None

    @property
    def _has_defaults(self) -> bool:
        return self.options.session.limits_anything or self.options.run.limits_anything

    def give(self, db: Database, kind: Kind, name: str, budget: Budget) -> None:
        """Set the budget of a session or run. Raises BadRequest if it needs prices."""
        if budget.max_cost is not None and "*" not in self.options.prices:
            raise BadRequest(
                'max_cost needs the option prices, with one for the model "*"', param="max_cost"
            )
        ledger.give(db, kind, name, budget, time.time())

    async def _admit(self, call: Call) -> None:
        if call.body.data is None:
            await call.body.read()
        ask, ends = ask_of(call, self.options), time.monotonic() + self.options.max_wait
        while (decision := await self._decision(call, ask)).busy and time.monotonic() < ends:
            await self._wait()
        call.run_id = decision.run
        if decision.full is not None:
            self._stop(call, decision.full, busy=decision.busy)
        if decision.names:
            call.count_tokens()
            await call.inject("usage")

    async def _wait(self) -> None:
        """Wait until a call ends, in this process or perhaps in another one."""
        self._freed.clear()
        self.waiting += 1
        try:
            async with asyncio.timeout(POLL):
                await self._freed.wait()
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1

    def _stop(self, call: Call, limit: Limit, *, busy: bool) -> None:
        """Let the call end with `length`. Raises the error where that is not wanted."""
        if busy:
            raise in_use(limit)
        self._stopped[limit.limit] += 1
        if limit.mode == "refuse":
            raise exceeded(limit)
        call.state[SPENT] = limit
        call.recorded = False  # nothing is sampled

    async def _decision(self, call: Call, ask: Ask) -> Decision:
        """Reserve what the call may take. Without the database no budget is in force."""
        storage, session, run = self._storage, call.session_id, call.run_id
        if storage is None:
            return Decision(run)
        options, owner, now = self.options, self._owner, time.time()
        deciding = asyncio.ensure_future(
            storage.write(lambda db: decide(db, options, session, run, ask, owner, now))
        )
        try:
            decision = await asyncio.shield(deciding)
        except StorageError as error:
            self._fail(error)
            return Decision(run)
        except asyncio.CancelledError:  # what is reserved all the same has to be given back
            deciding.add_done_callback(self._give_back)
            raise
        self._fault = ""
        if decision.names:
            call.state[DECIDED] = decision
            self._running += 1
        return decision

    def _fail(self, error: StorageError) -> None:
        if not self._fault:
            log.error("budgets are not in force, as the database cannot be used: %s", error)
        self._fault = f"budgets are not in force: {error}"

    def _give_back(self, deciding: "asyncio.Future[Decision]") -> None:
        if not deciding.cancelled() and deciding.exception() is None:
            decision = deciding.result()
            if decision.names:
                self._ledger.owed.append(self._end(decision, NOTHING))

    def _end(self, decision: Decision, used: Amounts) -> Settled:
        return Settled(decision.names, self._owner, decision.reserved, used, time.time())

    async def _cap(self, call: Call, most: int) -> None:
        """Set the maximum of tokens under each name that the request has, or that the API reads."""
        api = call.dialect or call.api
        if api is None or not api.max_tokens:
            return
        body = await call.json()
        known = [name for name in api.max_tokens if body.get(name) is not None]
        for name in known or api.max_tokens[-1:]:
            await call.set(name, most)

    async def _keep_up(self, storage: Storage) -> None:
        """Store what is owed, show that this process lives, and forget what is old."""
        cleaned = -CLEAN_INTERVAL
        while True:
            try:
                await self._look_after(storage)
                if time.monotonic() - cleaned > CLEAN_INTERVAL:
                    before = time.time() - self.options.keep_days * 86_400
                    while await storage.write(partial(ledger.delete_old, before=before)):
                        pass
                    cleaned = time.monotonic()
                self._neglect = ""
            except Exception as error:  # noqa: BLE001  the next round may succeed
                self._note_neglect(error)
            await asyncio.sleep(UPKEEP)

    def _note_neglect(self, error: Exception) -> None:
        if not self._neglect:
            log.error("budgets cannot store what is owed, nor delete what is old", exc_info=error)
        self._neglect = f"budgets are not looked after: {type(error).__name__}: {error}"

    async def _look_after(self, storage: Storage) -> None:
        owed = tuple(self._ledger.owed)
        await storage.write(partial(self._renew, owed))
        del self._ledger.owed[: len(owed)]  # only now: what is rolled back is owed still

    def _renew(self, owed: Sequence[Settled], db: Database) -> None:
        now = time.time()
        ledger.settle(db, owed)
        if self._running:
            ledger.seen(db, self._owner, now)
        ledger.forget_dead(db, now)
        self.given = ledger.any_given(db)
