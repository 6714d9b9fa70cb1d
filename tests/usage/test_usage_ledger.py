"""The ledger and its sums: each call once, whatever is repeated, undone, or written at once."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from gateway_plugins.usage.ledger.retention import Keep, Upkeep, call_id_at
from gateway_plugins.usage.ledger.row import Ledger, Row
from gateway_plugins.usage.ledger.schema import COUNTS, MIGRATIONS, WAY
from gateway_plugins.usage.ledger.sums import DAY, day_of, sum_some
from gateway_plugins.usage.report.queries import Place, page
from gateway_plugins.usage.report.verify import Checked, differences
from hypothesis import given
from hypothesis import strategies as st

from gateway import Config, Database, Storage, Trace
from gateway.config import StorageSettings
from gateway.storage import Entry
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing, prepare_file
from gateway.storage.sqlite.writer import Tally, change, commit

NOON = 1_795_262_400.0
"""Of 21 November 2026, UTC."""


def row(number: int, when: float = NOON) -> Row:
    """A call told by its number, some days and keys apart."""
    return Row(
        id=call_id_at(when - number % 3 * DAY) + number.to_bytes(10, "big"),
        time=when - number % 3 * DAY,
        key=f"key-{number % 2}",
        model="sim",
        worker=f"w{number % 2}",
        source="realtime",
        outcome=number % 3,
        prompt_tokens=number,
        completion_tokens=2 * number,
        cached_tokens=3,
        reasoning_tokens=5,
        counted=number % 2,
        repeated=int(number % 5 == 0),
    )


class Refusing:
    """A sink that undoes the transaction that it is in."""

    def prepare(self, db: Database, item: object) -> object:
        return item

    def write(self, db: Database, rows: Sequence[object]) -> None:
        raise ValueError("this sink takes nothing")

    def written(self, rows: Sequence[object]) -> None: ...
    def lost(self, item: object, error: BaseException) -> None: ...


@contextmanager
def files() -> Iterator[list[Connection]]:
    """Two connections to one file, as two processes have them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gateway.db")
        prepare_file(path)
        with closing(open_for_writing(path, "process", [MIGRATIONS])) as one:
            with closing(open_for_writing(path, "process", [MIGRATIONS])) as other:
                yield [one, other]


def entries(rows: Iterable[Row], *, undone: bool = False) -> list[Entry]:
    ledger = Ledger()
    found = [Entry(ledger, one, 1) for one in rows]
    return [*found, Entry(Refusing(), None, 1)] if undone else found


Sums = dict[tuple[str | int, ...], tuple[int, ...]]
"""The counts of each day and way, or of each way."""


def sums(db: Database, table: str) -> Sums:
    found = db.select(f"SELECT * FROM {table}")
    return {one[: -len(COUNTS)]: one[-len(COUNTS) :] for one in found}


def modelled(rows: Iterable[Row]) -> Sums:
    """The sums by days, each number added up by itself."""
    found: dict[tuple[str | int, ...], Counter[str]] = {}
    for one in rows:
        day = int(time.strftime("%Y%m%d", time.gmtime(one.time)))
        counts = found.setdefault((day, one.key, one.model, one.worker, one.source), Counter())
        if one.repeated:
            counts["repeated"] += 1
            counts["wasted_tokens"] += one.prompt_tokens + one.completion_tokens
            continue
        counts["requests"] += 1
        counts[("successes", "errors", "aborts")[one.outcome]] += 1
        for name in COUNTS[4:-2]:
            counts[name] += getattr(one, name)
    return {way: tuple(counts[name] for name in COUNTS) for way, counts in found.items()}


groups = st.lists(
    st.tuples(
        st.lists(st.integers(0, 30), max_size=12),
        st.integers(0, 1),
        st.sampled_from(("committed", "undone", "summed up")),
    ),
    max_size=8,
)
"""The numbers of calls, which of two connections writes them, and what becomes of the group."""


def test_ledger_counts_each_call_once_however_often_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway_plugins.usage.ledger.sums.BATCH_ROWS", 7)
    with files() as connections:
        db = connections[0]

        @given(groups)
        def check(written: list[tuple[list[int], int, str]]) -> None:
            clear(db)
            known: dict[int, Row] = {}
            for numbers, which, fate in written:
                known.update({number: row(number) for number in numbers})
                group = entries(map(row, numbers), undone=fate == "undone")
                commit(connections[which], group, Tally())
                if fate == "summed up":
                    change(connections[1 - which], sum_some)
            days = modelled(known.values())
            assert list(db.select("SELECT count(*) FROM usage_calls")) == [(len(known),)]
            assert sums(db, "usage_days") == days
            assert sums(db, "usage_totals") == without_days(days)
            assert list(differences(db, nothing, "internal", Checked())) == []
            assert read(db, None) == without_days(days)
            assert read(db, 20261120) == without_days(only(days, 20261120))

        check()


def only(days: Sums, day: int) -> Sums:
    return {way: counts for way, counts in days.items() if way[0] == day}


def read(db: Database, day: int | None) -> Sums:
    """The totals, or one day, page by page."""
    found: Sums = {}
    after = Place(day)
    while rows := page(db, after, 3):
        for one in rows:
            found[tuple(one[name] for name in WAY)] = tuple(int(one[name]) for name in COUNTS)
        after = msgspec.convert({"bucket": day, **rows[-1]}, Place)
    return found


def clear(db: Database) -> None:
    for table in ("usage_calls", "usage_sums"):
        db.execute(f"DELETE FROM {table}")
    db.execute("UPDATE usage_marks SET value = 0")


def without_days(days: Sums) -> Sums:
    totals: Sums = {}
    for way, counts in days.items():
        before = totals.get(way[1:], (0,) * len(counts))
        totals[way[1:]] = tuple(map(sum, zip(before, counts, strict=True)))
    return totals


def nothing(db: Database, since: float, until: float) -> Iterator[Trace]:
    return iter(())


async def test_ledger_shared_by_two_gateways_counts_each_call_once(tmp_path: Path) -> None:
    config = Config(storage=StorageSettings(path=str(tmp_path / "gateway.db")))
    storages = [Storage(config, [MIGRATIONS]) for _ in range(2)]
    for storage in storages:
        await storage.open()
    try:
        await asyncio.gather(
            *(
                storage.commit(entries([row(number), row(number + 100 * which)]))
                for number in range(1, 60)
                for which, storage in enumerate(storages, 1)
            )
        )
        [(calls,)] = await storages[0].read(
            lambda db: list(db.select("SELECT sum(requests + repeated) FROM usage_totals"))
        )
    finally:
        for storage in storages:
            await storage.close()
    assert calls == 59 * 3


@pytest.mark.parametrize(
    ("seconds", "day"),
    [(0, 19700101), (NOON + DAY / 2 - 0.001, 20261121), (NOON + DAY / 2, 20261122)],
)
def test_day_of_begins_at_midnight_utc(seconds: float, day: int) -> None:
    assert day_of(seconds) == day


def test_ledger_days_agree_between_python_and_sqlite() -> None:
    with files() as [db, _]:

        @given(st.floats(0, 4e9), st.floats(-1e-6, 1e-6))
        def check(seconds: float, beside: float) -> None:
            clear(db)
            times = (seconds, max(seconds // DAY * DAY + beside, 0))
            commit(
                db,
                entries(row(0, when)._replace(id=repr(when).encode()) for when in times),
                Tally(),
            )
            assert list(differences(db, nothing, "internal", Checked())) == []

        check()


async def test_upkeep_deletes_old_calls_and_days_but_keeps_totals(tmp_path: Path) -> None:
    storage = Storage(
        Config(storage=StorageSettings(path=str(tmp_path / "gateway.db"))), [MIGRATIONS]
    )
    await storage.open()
    try:
        ages = (20, 5, 2, 1, 0)
        rows = [row(3 * n, NOON - age * DAY) for n, age in enumerate(ages)]
        await storage.commit(entries(rows))
        await Upkeep(storage, Keep(10, 1)).run_once(NOON)

        def read(db: Database) -> tuple[object, ...]:
            [calls] = db.select("SELECT count(*) FROM usage_calls")
            [days] = db.select("SELECT count(*) FROM usage_days")
            [totals] = db.select("SELECT sum(requests + repeated) FROM usage_totals")
            return *calls, *days, *totals, list(differences(db, nothing, "", Checked()))

        assert await storage.read(read) == (2, 4, 5, [])
        await Upkeep(storage, Keep(None, None)).run_once(NOON + 1e9)
        assert await storage.read(read) == (2, 4, 5, [])
        await Upkeep(storage, Keep(1, 1)).run_once(NOON + 100 * DAY)
        await storage.commit(entries([row(99, NOON + 100 * DAY)]))
        await Upkeep(storage, Keep(1, 1)).run_once(NOON + 100 * DAY)
        assert await storage.read(read) == (1, 1, 6, [])
    finally:
        await storage.close()
