"""The tables: budgets that were given, what was spent, and what calls in flight may still take.

A call reserves what it may take in one transaction, and its use replaces the reservation in the
transaction of its trace, so any number of processes on one file agree. Reservations belong to an
owner, a running process; those of an owner that has not been seen for a while are void.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from gateway import Database, Migration, Migrations
from gateway_plugins.budgets.need import NOTHING, Amounts
from gateway_plugins.budgets.options import NO_BUDGET, Budget

Kind = Literal["session", "run"]

OWNER_TIMEOUT = 30.0
"""Seconds after which an owner that was not seen is dead."""

DELETE_BATCH = 1_000

MOST = 1 << 53
"""Maximum of an amount of one call: the database refuses integers of more than 64 bits."""

_AMOUNTS = "calls, tokens, completion_tokens, cost"
_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL" for name in _AMOUNTS.split(", "))

_TABLES = f"""
CREATE TABLE budget_spent (
    kind TEXT NOT NULL, name TEXT NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL,
    {_COLUMNS}, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE INDEX budget_spent_by_age ON budget_spent (last_at);
CREATE TABLE budget_reserved (
    kind TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL,
    {_COLUMNS}, PRIMARY KEY (kind, name, owner)
) WITHOUT ROWID;
CREATE TABLE budget_owners (owner TEXT PRIMARY KEY, seen_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE budget_given (
    kind TEXT NOT NULL, name TEXT NOT NULL, budget TEXT NOT NULL, changed_at REAL NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE budget_runs (
    session TEXT PRIMARY KEY, run TEXT NOT NULL, changed_at REAL NOT NULL
) WITHOUT ROWID
"""

MIGRATIONS = Migrations("budgets", (Migration("create_tables", _TABLES),))


class Spent(msgspec.Struct, frozen=True):
    """What one session or run has spent and reserved; `first_at` is 0 before the first call."""

    spent: Amounts = NOTHING
    reserved: Amounts = NOTHING
    first_at: float = 0.0
    last_at: float = 0.0


def spent(db: Database, kind: Kind, name: str, now: float) -> Spent:
    who = {"kind": kind, "name": name}
    query = f"SELECT first_at, last_at, {_AMOUNTS} FROM budget_spent"
    rows = db.select(f"{query} WHERE kind = :kind AND name = :name", who)
    first_at, last_at, *amounts = next(rows, (0.0, 0.0, 0, 0, 0, 0))
    sums = ", ".join(f"coalesce(sum({one}), 0)" for one in _AMOUNTS.split(", "))
    query = (
        f"SELECT {sums} FROM budget_reserved JOIN budget_owners USING (owner)"
        " WHERE kind = :kind AND name = :name AND seen_at > :alive"
    )
    [reserved] = db.select(query, {**who, "alive": now - OWNER_TIMEOUT})
    return Spent(Amounts(*amounts), Amounts(*reserved), first_at, last_at)


def given(db: Database, kind: Kind, name: str) -> Budget:
    """Return the budget that this one was given."""
    query = "SELECT budget FROM budget_given WHERE kind = :kind AND name = :name"
    found = (text for (text,) in db.select(query, {"kind": kind, "name": name}))
    return next((msgspec.json.decode(text, type=Budget) for text in found), NO_BUDGET)


def give(db: Database, kind: Kind, name: str, budget: Budget, now: float) -> None:
    """Set the budget of one session or run in place of an earlier one."""
    db.execute(
        "INSERT INTO budget_given VALUES (:kind, :name, :budget, :now)"
        " ON CONFLICT (kind, name) DO UPDATE SET budget = excluded.budget,"
        " changed_at = excluded.changed_at",
        {"kind": kind, "name": name, "budget": msgspec.json.encode(budget).decode(), "now": now},
    )


def run_of(db: Database, session: str) -> str | None:
    query = "SELECT run FROM budget_runs WHERE session = :session"
    return next((str(run) for (run,) in db.select(query, {"session": session})), None)


def put_in_run(db: Database, session: str, run: str, now: float) -> None:
    db.execute(
        "INSERT INTO budget_runs VALUES (:session, :run, :now)"
        " ON CONFLICT (session) DO UPDATE SET run = excluded.run, changed_at = excluded.changed_at",
        {"session": session, "run": run, "now": now},
    )


def any_given(db: Database) -> bool:
    """Whether any session or run was given a budget, or any session a run."""
    query = "SELECT EXISTS (SELECT 1 FROM budget_given) OR EXISTS (SELECT 1 FROM budget_runs)"
    [(some,)] = db.select(query)
    return bool(some)


_RESERVE = (
    f"INSERT INTO budget_reserved (kind, name, owner, {_AMOUNTS})",
    "ON CONFLICT (kind, name, owner) DO UPDATE SET "
    + ", ".join(f"{one} = {one} + excluded.{one}" for one in _AMOUNTS.split(", ")),
)

_SPEND = (
    f"INSERT INTO budget_spent (kind, name, first_at, last_at, {_AMOUNTS})",
    "ON CONFLICT (kind, name) DO UPDATE SET last_at = max(last_at, excluded.last_at), "
    + ", ".join(f"{one} = {one} + excluded.{one}" for one in _AMOUNTS.split(", ")),
)

_SEEN = (
    "INSERT INTO budget_owners (owner, seen_at)",
    "ON CONFLICT (owner) DO UPDATE SET seen_at = excluded.seen_at",
)


def reserve(
    db: Database, names: Sequence[tuple[Kind, str]], owner: str, need: Amounts, now: float
) -> None:
    """Reserve `need` of all these; the first call of one begins its time."""
    seen(db, owner, now)
    db.insert(_RESERVE[0], [(*name, owner, *need.row) for name in names], _RESERVE[1])
    db.insert(_SPEND[0], [(*name, now, now, *NOTHING.row) for name in names], _SPEND[1])


def seen(db: Database, owner: str, now: float) -> None:
    db.insert(_SEEN[0], [(owner, now)], _SEEN[1])


class Settled(msgspec.Struct, frozen=True):
    """The end of one call: of whom it had `reserved`, and what it `used`."""

    names: tuple[tuple[Kind, str], ...]
    owner: str
    reserved: Amounts
    used: Amounts
    at: float


def settle(db: Database, ends: Sequence[Settled]) -> None:
    """Put what calls used in place of what they had reserved, if that is not void by now."""
    for end in ends:
        for kind, name in end.names:
            _release(db, {"kind": kind, "name": name, "owner": end.owner}, end.reserved)
        amounts = [min(one, MOST) for one in end.used.row]
        used = [(*name, end.at, end.at, *amounts) for name in end.names]
        db.insert(_SPEND[0], used, _SPEND[1])


def _release(db: Database, whose: Mapping[str, str], reserved: Amounts) -> None:
    where = "WHERE kind = :kind AND name = :name AND owner = :owner"
    less = ", ".join(f"{one} = max({one} - :{one}, 0)" for one in _AMOUNTS.split(", "))
    amounts = dict(zip(_AMOUNTS.split(", "), reserved.row, strict=True))
    db.execute(f"UPDATE budget_reserved SET {less} {where}", {**whose, **amounts})
    db.execute(f"DELETE FROM budget_reserved {where} AND calls <= 0", whose)


def forget_dead(db: Database, now: float) -> None:
    """Delete what dead owners had reserved."""
    dead = {"alive": now - OWNER_TIMEOUT}
    db.execute(
        "DELETE FROM budget_reserved WHERE owner NOT IN"
        " (SELECT owner FROM budget_owners WHERE seen_at > :alive)",
        dead,
    )
    db.execute("DELETE FROM budget_owners WHERE seen_at <= :alive", dead)


_OLD = {
    "budget_spent": ("kind, name", "last_at", ""),
    "budget_given": ("kind, name", "changed_at", "(kind, name)"),
    "budget_runs": ("session", "changed_at", "('session', session)"),
}
"""Each table's key, its column of the age, and whose calls since then keep a row."""


def delete_old(db: Database, before: float) -> bool:
    """Delete some rows of sessions and runs without a call since; whether there may be more."""
    deleted = [_delete_some(db, table, before) for table in _OLD]
    return DELETE_BATCH in deleted


def _delete_some(db: Database, table: str, before: float) -> int:
    key, age, whose = _OLD[table]
    called = "SELECT kind, name FROM budget_spent WHERE last_at >= :before"
    active = f" AND {whose} NOT IN ({called})" if whose else ""
    return db.execute(
        f"DELETE FROM {table} WHERE ({key}) IN"
        f" (SELECT {key} FROM {table} WHERE {age} < :before{active} LIMIT :most)",
        {"before": before, "most": DELETE_BATCH},
    )


class Ledger:
    """A gateway Sink of Settled. What could not be stored is in `owed`, to be stored later.

    `settled`, if set, is called when ends of calls were committed, in the writer's thread.
    """

    def __init__(self) -> None:
        self.owed: list[Settled] = []
        self.settled: Callable[[], object] | None = None

    def prepare(self, db: Database, item: Settled) -> Settled:
        return item

    def write(self, db: Database, rows: Sequence[Settled]) -> None:
        settle(db, rows)

    def written(self, rows: Sequence[Settled]) -> None:
        if self.settled is not None:
            self.settled()

    def lost(self, item: Settled, error: BaseException) -> None:
        self.owed.append(item)
