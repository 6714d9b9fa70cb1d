"""Many rows by few statements are the same rows."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import insert_rows
from gateway.storage.sqlite.rows import MOST

values = st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text() | st.binary()


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE some (id INTEGER PRIMARY KEY, value)")
        yield db


@given(st.lists(values, max_size=40))
def test_what_is_inserted_is_there_in_order(found: list[object]) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE some (id INTEGER PRIMARY KEY, value)")
        rows = list(enumerate(found))
        assert insert_rows(db, "INSERT INTO some", rows) == len(rows)
        assert db.execute("SELECT * FROM some ORDER BY id").fetchall() == rows


def test_few_statements_are_made_of_many_rows(db: sqlite3.Connection) -> None:
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    insert_rows(db, "INSERT INTO some", [(n, n) for n in range(2 * MOST + 5)])
    assert len([one for one in statements if one.startswith("INSERT")]) == 4


def test_rows_of_many_columns_go_into_statements_that_sqlite_takes(db: sqlite3.Connection) -> None:
    columns = 500
    db.execute(f"CREATE TABLE wide ({','.join(f'c{n}' for n in range(columns))})")
    insert_rows(db, "INSERT INTO wide", [tuple(range(columns))] * 100)
    assert db.execute("SELECT count(*), sum(c499) FROM wide").fetchone() == (100, 49_900)


def test_rows_that_are_there_are_not_counted(db: sqlite3.Connection) -> None:
    insert_rows(db, "INSERT INTO some", [(3, "a")])
    again = [(n, "b") for n in range(6)]
    assert insert_rows(db, "INSERT INTO some", again, "ON CONFLICT (id) DO NOTHING") == 5
    assert db.execute("SELECT value FROM some WHERE id = 3").fetchone() == ("a",)
