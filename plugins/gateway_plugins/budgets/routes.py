"""Routes by which budgets are given, and what was spent of them is read."""

import time
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from starlette.routing import BaseRoute

from gateway import BadRequest, ControlRequest, Database, Host
from gateway_plugins.budgets import ledger
from gateway_plugins.budgets.deciding import budget_of, limits_of
from gateway_plugins.budgets.ledger import Kind
from gateway_plugins.budgets.options import BILLION, Budget, Options

T = TypeVar("T")

SCOPES = ("sessions:all", "admin")
"""The routes ask for no owner, so `sessions` alone does not suffice."""

MAX_NAME = 256
"""Characters of the name of a session or run."""


class Keeper(Protocol):
    """The part of the plugin that the routes use."""

    options: Options
    given: bool

    def give(self, db: Database, kind: Kind, name: str, budget: Budget) -> None: ...


class NewBudget(Budget, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A budget, and the run that a session belongs to."""

    run_id: str | None = None


class Used(msgspec.Struct):
    """What was spent, or is reserved for calls in flight; the cost is in the prices' currency."""

    calls: int
    tokens: int
    completion_tokens: int
    cost: float


class Told(msgspec.Struct, kw_only=True):
    """A session or a run: its budget in force, what was spent, and what is left of each limit.

    `reserved` is for calls in flight. `first_at` and `last_at` are those of its calls in Unix
    seconds, None before any.
    """

    kind: Kind
    id: str
    run_id: str | None
    budget: Budget
    spent: Used
    reserved: Used
    left: dict[str, float]
    first_at: float | None
    last_at: float | None
    object: Literal["budget"] = "budget"


class Routes:
    """The handlers."""

    def __init__(self, gateway: Host, keeper: Keeper) -> None:
        self._gateway = gateway
        self._keeper = keeper

    def all(self) -> list[BaseRoute]:
        return [
            self._gateway.control(
                "/budgets/sessions/{session_id}",
                scope=SCOPES,
                GET=self.show_session,
                POST=self.give_session,
            ),
            self._gateway.control(
                "/budgets/runs/{run_id}", scope=SCOPES, GET=self.show_run, POST=self.give_run
            ),
        ]

    async def show_session(self, request: ControlRequest) -> Told:
        return await self._show("session", request.params["session_id"])

    async def show_run(self, request: ControlRequest) -> Told:
        return await self._show("run", request.params["run_id"])

    async def give_session(self, request: ControlRequest) -> Told:
        new, session = await request.json(NewBudget), request.params["session_id"]
        run = None if new.run_id is None else budget_in(new.run_id, str, "run_id")
        return await self._give("session", session, new, run)

    async def give_run(self, request: ControlRequest) -> Told:
        return await self._give("run", request.params["run_id"], await request.json(Budget))

    async def _give(self, kind: Kind, name: str, new: Budget, run: str | None = None) -> Told:
        """Set the budget, and the run of a session, both or neither."""
        budget = Budget(**{one: getattr(new, one) for one in Budget.__struct_fields__})

        def give(db: Database) -> None:
            if run is not None:
                ledger.put_in_run(db, name, run, time.time())
            self._keeper.give(db, kind, name, budget)

        await self._gateway.storage.write(give)
        self._keeper.given = True
        return await self._show(kind, name)

    async def _show(self, kind: Kind, name: str) -> Told:
        options = self._keeper.options
        return await self._gateway.storage.read(lambda db: _told(db, options, kind, name))


def budget_in(value: Any, type_: type[T] = Budget, what: str = "budget") -> T:  # type: ignore[assignment]
    """Return a part of a request as a Budget, or as a name. Raises BadRequest."""
    try:
        found = msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{what}: {error}", param=what) from None
    if isinstance(found, str) and not (found.isprintable() and 0 < len(found) <= MAX_NAME):
        message = f"{what}: expected 1 to {MAX_NAME} printable characters"
        raise BadRequest(message, param=what)
    return found


def _told(db: Database, options: Options, kind: Kind, name: str) -> Told:
    now = time.time()
    budget, spent = budget_of(db, options, kind, name), ledger.spent(db, kind, name, now)
    limits = limits_of(budget, kind, name, spent, now)
    return Told(
        kind=kind,
        id=name,
        run_id=ledger.run_of(db, name) if kind == "session" else None,
        budget=budget,
        spent=_used(spent.spent.row),
        reserved=_used(spent.reserved.row),
        left={
            one.limit: max(one.left, 0) / (BILLION if one.limit == "max_cost" else 1)
            for one in limits
        },
        first_at=spent.first_at or None,
        last_at=spent.last_at or None,
    )


def _used(row: tuple[int, int, int, int]) -> Used:
    calls, tokens, completion_tokens, cost = row
    return Used(calls, tokens, completion_tokens, cost / BILLION)
