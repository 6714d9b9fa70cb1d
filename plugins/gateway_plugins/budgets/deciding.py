"""Decides in one transaction whether a call may begin, and with how many tokens."""

from collections.abc import Iterator, Sequence

import msgspec

from gateway import Database
from gateway_plugins.budgets import ledger
from gateway_plugins.budgets.ledger import Kind, Spent
from gateway_plugins.budgets.need import NOTHING, Amounts, Ask
from gateway_plugins.budgets.options import BILLION, Budget, Mode, Name, Options

Named = tuple[Kind, str]

NEAR = 16
"""A call that sets no maximum gets one if less than so many times the estimate is left: engines
reject a maximum beyond the length of their context, which is not known here."""


class Limit(msgspec.Struct, frozen=True):
    """One limit of a budget in force; amounts are as Amounts has them, times are seconds."""

    kind: Kind
    name: str
    limit: Name
    most: float
    spent: float
    reserved: float
    mode: Mode

    @property
    def left(self) -> float:
        """What neither was spent nor is reserved."""
        return self.most - self.spent - self.reserved


class Decision(msgspec.Struct, frozen=True):
    """`names` are those for which `reserved` was reserved; none: no budget is in force.

    `full`: the limit that the call does not fit into, so that nothing was reserved. `busy`: it
    would fit without the calls in flight. `completion`: the maximum of tokens for each sample, if
    it has to be lowered, or set. `run` is the run of the call.
    """

    run: str | None = None
    names: tuple[Named, ...] = ()
    reserved: Amounts = NOTHING
    full: Limit | None = None
    busy: bool = False
    completion: int | None = None


def decide(
    db: Database,
    options: Options,
    session: str | None,
    run: str | None,
    ask: Ask,
    owner: str,
    now: float,
) -> Decision:
    """Reserve what the call asks for, if the budgets of its session and its run have that left."""
    if run is None and session is not None:
        run = ledger.run_of(db, session)
    named: list[Named] = [] if session is None else [("session", session)]
    named += [] if run is None else [("run", run)]
    limits: list[Limit] = []
    held: list[Named] = []
    for name in named:
        budget = budget_of(db, options, *name)
        if budget.limits_anything:
            held.append(name)
            limits += limits_of(budget, *name, ledger.spent(db, *name, now), now)
    if not held:
        return Decision(run)
    room = _room(limits, ask, options)
    need = ask.amounts(options, None if room is None else min(room, ask.completion))
    full = next(_full(limits, need), None)
    if full is not None:
        return Decision(run, full=full, busy=_fits(full, need, alone=True))
    ledger.reserve(db, held, owner, need, now)
    return Decision(run, tuple(held), need, completion=_cap(room, ask, options))


def budget_of(db: Database, options: Options, kind: Kind, name: str) -> Budget:
    """Return the budget in force."""
    default = options.session if kind == "session" else options.run
    return ledger.given(db, kind, name).over(default)


def limits_of(budget: Budget, kind: Kind, name: str, spent: Spent, now: float) -> Sequence[Limit]:
    """Return the limits that a budget has."""
    own, held = spent.spent, spent.reserved
    time = now - spent.first_at if spent.first_at else 0.0
    rows: tuple[tuple[Name, float | None, float, float], ...] = (
        ("max_calls", budget.max_calls, own.calls, held.calls),
        ("max_tokens", budget.max_tokens, own.tokens, held.tokens),
        (
            "max_completion_tokens",
            budget.max_completion_tokens,
            own.completion_tokens,
            held.completion_tokens,
        ),
        ("max_cost", _billionths(budget.max_cost), own.cost, held.cost),
        ("max_time", budget.max_time, time, 0.0),
    )
    mode = budget.when_spent or "refuse"
    return [
        Limit(kind, name, limit, most, used, reserved, mode)
        for limit, most, used, reserved in rows
        if most is not None
    ]


def _billionths(cost: float | None) -> int | None:
    return None if cost is None else round(cost * BILLION)


def _amount(need: Amounts, limit: Name) -> float:
    match limit:
        case "max_calls":
            return need.calls
        case "max_tokens":
            return need.tokens
        case "max_completion_tokens":
            return need.completion_tokens
        case "max_cost":
            return need.cost
    return 0.0


def _fits(limit: Limit, need: Amounts, *, alone: bool = False) -> bool:
    """Whether the need fits into what is left; `alone`: if no other call were in flight.

    Time is left until it is over.
    """
    left = limit.left + (limit.reserved if alone else 0.0)
    if limit.limit == "max_time":
        return left > 0
    return left > 0 and _amount(need, limit.limit) <= left


def _full(limits: Sequence[Limit], need: Amounts) -> Iterator[Limit]:
    """Yield the limits that the need does not fit into, those that stay full first."""
    full = [one for one in limits if not _fits(one, need)]
    yield from sorted(full, key=lambda one: _fits(one, need, alone=True))


def _room(limits: Sequence[Limit], ask: Ask, options: Options) -> int | None:
    """Return the completion tokens of each sample that limits of mode `length` leave.

    None if no such limit bounds them, or the API has no field for it; 1 at least, with which a call
    does not fit for which nothing is left.
    """
    if not ask.caps:
        return None
    rooms = [room for one in limits if one.mode == "length" for room in _room_of(one, ask, options)]
    if not rooms:
        return None
    return max(min(rooms), 1)


def _cap(room: int | None, ask: Ask, options: Options) -> int | None:
    """Return the maximum to set in the request: None if its own, or the engine's, is low enough."""
    if room is None or (ask.bounded and ask.completion <= room):
        return None
    near = ask.bounded or room < NEAR * options.completion_estimate
    return room if near else None


def _room_of(limit: Limit, ask: Ask, options: Options) -> Iterator[int]:
    left = int(limit.left)
    match limit.limit:
        case "max_tokens":
            yield (left - ask.prompt) // ask.samples
        case "max_completion_tokens":
            yield left // ask.samples
        case "max_cost":
            price = options.price_of(ask.model)
            if price.output:
                left -= price.of(ask.prompt, 0)
                yield int(left / (price.output * 1_000)) // ask.samples
