"""Many rows by few statements are the same rows."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import insert_rows
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing
from gateway.storage.sqlite.rows import MAX_ROWS

values = st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.text() | st.binary()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    with closing(open_for_writing(tmp_path / "some.db", "process", [])) as db:
        db.execute("CREATE TABLE some (id INTEGER PRIMARY KEY, value)")
        yield db


@given(st.lists(values, max_size=40))
def test_insert_rows_stores_all_rows_in_order(found: list[object]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_for_writing(Path(folder, "some.db"), "none", [])) as db,
    ):
        db.execute("CREATE TABLE some (id INTEGER PRIMARY KEY, value)")
        rows = list(enumerate(found))
        assert insert_rows(db, "INSERT INTO some", rows) == len(rows)
        assert list(db.select("SELECT * FROM some ORDER BY id")) == rows


def test_insert_rows_groups_many_rows_into_few_statements(db: Connection) -> None:
    statements: list[str] = []
    db.raw.set_trace_callback(statements.append)
    insert_rows(db, "INSERT INTO some", [(n, n) for n in range(2 * MAX_ROWS + 5)])
    assert len([one for one in statements if one.startswith("INSERT")]) == 4


def test_insert_rows_respects_sqlite_s_limit_for_wide_rows(db: Connection) -> None:
    columns = 500
    db.execute(f"CREATE TABLE wide ({','.join(f'c{n}' for n in range(columns))})")
    insert_rows(db, "INSERT INTO wide", [tuple(range(columns))] * 100)
    assert list(db.select("SELECT count(*), sum(c499) FROM wide")) == [(100, 49_900)]


def test_insert_rows_does_not_count_conflicting_rows(db: Connection) -> None:
    insert_rows(db, "INSERT INTO some", [(3, "a")])
    again = [(n, "b") for n in range(6)]
    assert insert_rows(db, "INSERT INTO some", again, "ON CONFLICT (id) DO NOTHING") == 5
    assert list(db.select("SELECT value FROM some WHERE id = 3")) == [("a",)]
