"""Whatever calls ask for and use, in whatever order: no budget is overrun, and nothing is lost."""

from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest
from gateway_plugins.budgets import ledger
from gateway_plugins.budgets.deciding import Decision, decide
from gateway_plugins.budgets.ledger import MIGRATIONS, OWNER_TIMEOUT, Kind, Settled
from gateway_plugins.budgets.need import NOTHING, Amounts, Ask
from gateway_plugins.budgets.options import Budget, Name, Options, Price
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import Database
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing, prepare_file
from gateway.storage.sqlite.writer import change

NOW = 1_795_262_400.0
NAMES: tuple[tuple[Kind, str], ...] = (("session", "a"), ("session", "b"), ("run", "r"))


class Begin(msgspec.Struct, frozen=True):
    session: str
    owner: str
    ask: Ask


class End(msgspec.Struct, frozen=True):
    """The call ends that is `which` among those that run; it used `percent` of its reservation."""

    which: int
    percent: int


ASKS = st.builds(
    Ask,
    prompt=st.integers(0, 60),
    completion=st.integers(0, 80),
    samples=st.integers(1, 3),
    model=st.just("sim"),
    bounded=st.just(True),
    caps=st.booleans(),
)
BEGINS = st.builds(
    Begin, session=st.sampled_from("ab"), owner=st.sampled_from(["one", "two"]), ask=ASKS
)
STEPS = st.lists(BEGINS | st.builds(End, which=st.integers(0, 9), percent=st.integers(0, 100)))
LIMITS = st.none() | st.integers(1, 300)
BUDGETS = st.builds(
    Budget,
    max_calls=st.none() | st.integers(1, 6),
    max_tokens=LIMITS,
    max_completion_tokens=LIMITS,
    max_cost=st.none() | st.floats(0.1, 300.0),
    when_spent=st.sampled_from(["refuse", "length"]),
)
COUNTED: tuple[Name, ...] = ("max_calls", "max_tokens", "max_completion_tokens", "max_cost")
PRICES = {"*": Price(input=1e5, output=1e5)}


class Story:
    def __init__(self, db: Connection, options: Options) -> None:
        self.db, self.options = db, options
        self.running: list[tuple[Decision, str]] = []
        self.used = dict.fromkeys(NAMES, NOTHING)

    def take(self, step: Begin | End) -> None:
        if isinstance(step, Begin):
            change(self.db, lambda db: self._begin(db, step))
        elif self.running:
            decision, owner = self.running.pop(step.which % len(self.running))
            row = (one * step.percent // 100 for one in decision.reserved.row)
            used = Amounts(*row)
            ended = Settled(decision.names, owner, decision.reserved, used, NOW)
            change(self.db, lambda db: ledger.settle(db, [ended]))
            for name in decision.names:
                self.used[name] = self.used[name].plus(used)
        self.check()

    def _begin(self, db: Database, step: Begin) -> None:
        options = self.options
        decision = decide(db, options, step.session, "r", step.ask, step.owner, NOW)
        if decision.names:
            self.running.append((decision, step.owner))
            cap = step.ask.completion if decision.completion is None else decision.completion
            assert cap * step.ask.samples <= decision.reserved.completion_tokens or not cap
        if decision.full is not None:
            assert decision.busy <= bool(self.running), "only calls in flight can be waited for"
            needs = step.ask.amounts(options).row
            wanted = dict(zip(COUNTED, needs, strict=True))[decision.full.limit]
            assert wanted > decision.full.left or decision.full.left <= 0

    def check(self) -> None:
        held = dict.fromkeys(NAMES, NOTHING)
        for decision, _ in self.running:
            for name in decision.names:
                held[name] = held[name].plus(decision.reserved)
        for who in NAMES:
            budget = self.options.run if who[0] == "run" else self.options.session
            found = ledger.spent(self.db, *who, NOW)
            assert found.spent == self.used[who]
            assert found.reserved == held[who]
            calls, tokens, completion, cost = found.spent.plus(found.reserved).row
            for most, amount in (
                (budget.max_calls, calls),
                (budget.max_tokens, tokens),
                (budget.max_completion_tokens, completion),
                (None if budget.max_cost is None else round(budget.max_cost * 1e9), cost),
            ):
                assert most is None or amount <= most


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    path = tmp_path_factory.mktemp("budgets") / "g.db"
    prepare_file(path)
    with closing(open_for_writing(path, "none", [MIGRATIONS])) as opened:
        yield opened


def emptied(db: Database) -> None:
    tables = ("spent", "reserved", "owners", "given", "runs")
    for table in (f"budget_{one}" for one in tables):
        db.execute(f"DELETE FROM {table}")


@example(
    session=Budget(max_tokens=100, when_spent="length"),
    run=Budget(),
    steps=[Begin("a", "one", Ask(10, 80, 1, "sim", caps=True))] * 3 + [End(0, 50), End(0, 100)],
)
@given(session=BUDGETS, run=BUDGETS, steps=STEPS)
def test_calls_in_flight_never_overrun_a_budget(
    db: Connection, session: Budget, run: Budget, steps: list[Begin | End]
) -> None:
    change(db, emptied)
    options = Options(session=session, run=run, prices=PRICES)
    story = Story(db, options)
    for step in steps:
        story.take(step)
    change(db, lambda one: ledger.forget_dead(one, NOW + OWNER_TIMEOUT + 1))
    held = [ledger.spent(db, *name, NOW).reserved for name in NAMES]
    assert held == [NOTHING] * len(NAMES), "what dead processes had reserved is void"


HELD = Amounts(1, 1_000, 500, 0)


def test_end_of_an_owner_held_for_dead_enlarges_no_budget(db: Connection) -> None:
    change(db, emptied)
    [name] = names = NAMES[:1]
    change(db, lambda one: ledger.reserve(one, names, "slow", HELD, NOW))
    later = NOW + OWNER_TIMEOUT + 1
    change(db, lambda one: ledger.forget_dead(one, later))
    change(db, lambda one: ledger.settle(one, [Settled(names, "slow", HELD, HELD, later)]))
    change(db, lambda one: ledger.seen(one, "slow", later))
    assert ledger.spent(db, *name, later).reserved == NOTHING
    change(db, lambda one: ledger.reserve(one, names, "slow", HELD, later))
    assert ledger.spent(db, *name, later).reserved == HELD


def test_end_of_a_call_costs_the_same_however_many_others_run(db: Connection) -> None:
    few, many = (_steps_of_an_end(db, others) for others in (10, 10_000))
    assert many < 2 * few


def _steps_of_an_end(db: Connection, others: int) -> int:
    """Return about how many instructions the database runs for one end beside `others` calls."""
    change(db, emptied)
    running: list[tuple[Kind, str]] = [("session", str(one)) for one in range(others)]
    change(db, lambda one: ledger.reserve(one, [*running, NAMES[0]], "one", HELD, NOW))
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    db.raw.set_progress_handler(step, 10)
    change(db, lambda one: ledger.settle(one, [Settled(NAMES[:1], "one", HELD, HELD, NOW)]))
    db.raw.set_progress_handler(None, 0)
    return steps


@pytest.mark.parametrize("active", ["session", "run"])
def test_active_namesake_of_the_other_kind_keeps_nothing(db: Connection, active: Kind) -> None:
    def tell(one: Database) -> None:
        emptied(one)
        ledger.give(one, "session", "x", Budget(max_calls=1), NOW)
        ledger.give(one, "run", "x", Budget(max_calls=1), NOW)
        ledger.put_in_run(one, "x", "r", NOW)
        ledger.reserve(one, [(active, "x")], "one", HELD, NOW + 2)

    change(db, tell)
    change(db, lambda one: ledger.delete_old(one, NOW + 1))
    kinds: tuple[Kind, ...] = ("session", "run")
    kept = [kind for kind in kinds if ledger.given(db, kind, "x").limits_anything]
    assert kept == [active]
    assert ledger.run_of(db, "x") == ("r" if active == "session" else None)
