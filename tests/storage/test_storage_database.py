"""The Database of the engine: rows, errors and migrations, as plugins see them."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.records.databases import memory_database
from support.records.storage_sinks import NOTES, Notes, opened, texts

from gateway import (
    Config,
    ConfigError,
    ConstraintViolated,
    Database,
    Migration,
    Migrations,
    StorageError,
    StorageUnavailable,
    open_for_changes,
    open_read_only,
)
from gateway.config import StorageSettings
from gateway.errors import InvalidStatement
from gateway.storage.sqlite import change_file, connection
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import open_for_writing
from gateway.storage.sqlite.migrate import migrate

INSERT = "INSERT INTO notes (text)"
COUNT = "SELECT count(*) FROM notes"


@pytest.fixture
def db() -> Iterator[Connection]:
    with closing(memory_database([NOTES])) as db:
        yield db


def test_select_yields_tuples_by_named_parameters(db: Database) -> None:
    db.insert(INSERT, [("a",), ("b",), ("c",)])
    query = "SELECT number, text FROM notes WHERE text > :text ORDER BY number"
    assert list(db.select(query, {"text": "a"})) == [(2, "b"), (3, "c")]


def test_execute_returns_the_number_of_rows_changed(db: Database) -> None:
    db.insert(INSERT, [("a",), ("b",), ("c",)])
    assert db.execute("DELETE FROM notes WHERE text != :text", {"text": "b"}) == 2
    assert db.execute("DELETE FROM notes WHERE text = 'a'") == 0


def test_insert_raises_constraint_violated(db: Database) -> None:
    with pytest.raises(ConstraintViolated):
        db.insert(INSERT, [(None,)])


@pytest.mark.parametrize("sql", ["SELECT * FROM nowhere", "SELECT", "DELETE FROM notes WHERE no"])
def test_wrong_statement_is_not_reported_as_unavailable_storage(db: Database, sql: str) -> None:
    with pytest.raises(StorageError) as caught:
        db.select(sql)
    assert type(caught.value) is StorageError


def test_missing_parameter_raises_invalid_statement(db: Database) -> None:
    with pytest.raises(InvalidStatement):
        db.select("SELECT :text", {"other": 1})


def test_select_translates_errors_while_rows_are_read(db: Database) -> None:
    rows = db.select("SELECT 1 UNION ALL SELECT abs(-9223372036854775808)")
    with pytest.raises(StorageError):
        list(rows)


def test_version_changes_only_with_commits_of_other_connections(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with (
        closing(open_for_writing(path, "process", [NOTES])) as one,
        closing(open_for_writing(path, "process", [])) as other,
    ):
        before = one.version()
        one.insert(INSERT, [("a",)])
        assert one.version() == before
        other.insert(INSERT, [("b",)])
        assert one.version() != before


def test_used_bytes_shrink_with_a_deletion(db: Database) -> None:
    db.insert(INSERT, [("x" * 100_000,)])
    before = db.used_bytes()
    db.execute("DELETE FROM notes")
    assert db.used_bytes() < before - 90_000


def test_each_step_of_a_migration_runs_once(db: Connection) -> None:
    first = Migration("first", "CREATE TABLE steps (name TEXT); INSERT INTO steps VALUES ('1')")
    second = Migration("second", "INSERT INTO steps VALUES ('2')")
    for steps in ((first,), (first, second), (first, second)):
        migrate(db, [Migrations("steps", steps)])
    assert list(db.select("SELECT name FROM steps ORDER BY name")) == [("1",), ("2",)]


def test_migrations_of_two_plugins_may_have_steps_of_one_name(db: Connection) -> None:
    for name in ("one", "other"):
        migrate(db, [Migrations(name, (Migration("create", f"CREATE TABLE {name} (id)"),))])
    assert list(db.select("SELECT 1 FROM one, other")) == []


async def test_open_read_only_yields_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        with open_read_only(Config(storage=StorageSettings(path=str(path))), "GET /notes") as db:
            assert list(db.select(COUNT)) == [(1,)]
            await storage.commit(notes.entries("b"))
            assert list(db.select(COUNT)) == [(1,)]
            with pytest.raises(StorageUnavailable):
                db.execute("DELETE FROM notes")
        assert texts(path) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (":memory:", "in memory; ask the gateway over HTTP: GET /notes"),
        ("none.db", "there is no such file"),
        (".", "is not a file"),
        ("garbage", "garbage: cannot be read: "),
    ],
)
def test_open_read_only_explains_why_there_is_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("garbage").write_bytes(b"no database" * 100)
    settings = Config(storage=StorageSettings(path=path))
    with pytest.raises(ConfigError, match=problem):
        with open_read_only(settings, "GET /notes"):
            pass


async def test_open_for_changes_changes_the_file_of_a_running_gateway(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    settings = Config(storage=StorageSettings(path=str(path), durability="power"))
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        with open_for_changes(settings, "POST /notes") as file:
            added = file.write(lambda db: db.insert("INSERT INTO notes (text)", [("b",)]))
            await storage.commit(notes.entries("c"))
        assert added == 1
    assert texts(path) == ["a", "b", "c"]


def test_open_for_changes_undoes_a_change_that_raises(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    open_for_writing(path, "process", [NOTES]).close()

    def half(db: Database) -> None:
        db.insert("INSERT INTO notes (text)", [("a",)])
        raise LookupError

    with open_for_changes(Config(storage=StorageSettings(path=str(path))), "POST /notes") as file:
        with pytest.raises(LookupError):
            file.write(half)
    assert texts(path) == []


def test_open_for_changes_waits_for_other_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gateway.db"
    settings = Config(storage=StorageSettings(path=str(path)))
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", 0.01)
    with closing(open_for_writing(path, "process", [NOTES])) as other:
        other.execute("BEGIN IMMEDIATE")
        tries: list[float] = []

        def clock() -> float:
            tries.append(len(tries))
            if len(tries) == 3:
                other.execute("ROLLBACK")
            return 0.0

        monkeypatch.setattr(change_file, "monotonic", clock)
        with open_for_changes(settings, "POST /notes") as file:
            file.write(lambda db: db.insert("INSERT INTO notes (text)", [("a",)]))
            other.execute("BEGIN IMMEDIATE")
            monkeypatch.setattr(change_file, "PATIENCE", -1.0)
            with pytest.raises(StorageUnavailable, match="locked"):
                file.write(lambda db: None)
    assert texts(path) == ["a"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (":memory:", "in memory; ask the gateway over HTTP: POST /notes"),
        ("none.db", "there is no such file"),
        ("garbage", "garbage: cannot be changed: the database file is damaged"),
    ],
)
def test_open_for_changes_explains_why_there_is_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("garbage").write_bytes(b"no database" * 100)
    settings = Config(storage=StorageSettings(path=path))
    with pytest.raises(ConfigError, match=problem), open_for_changes(settings, "POST /notes") as f:
        f.write(lambda db: None)
    assert not Path("none.db").exists()


def test_open_read_only_names_the_file_of_an_error(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    open_for_writing(path, "process", []).close()
    with pytest.raises(ConfigError, match=f"{path}: cannot be read: "):
        with open_read_only(Config(storage=StorageSettings(path=str(path))), "GET /notes") as db:
            db.select(COUNT)
