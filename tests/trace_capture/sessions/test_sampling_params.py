"""The sampling parameters of sessions, as the event loop looks them up for each call."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_plugins.trace_capture.sessions import sampling_params
from gateway_plugins.trace_capture.sessions.sampling_params import ANY_QUERY, SessionOptions
from gateway_plugins.trace_capture.store.schema import MIGRATIONS

from gateway import Database
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.file import connect_read_only, open_for_writing


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Connection]:
    db = open_for_writing(tmp_path / "gateway.db", "process", [MIGRATIONS])
    yield db
    db.close()


@pytest.fixture
def read(file: Connection) -> Iterator[SessionOptions]:
    found = SessionOptions(lambda: connect_read_only(file.path))
    yield found
    found.close()


def give(db: Database, session_id: str, params: str) -> None:
    db.execute(
        "INSERT INTO sessions (session_id, created_at, last_at, sampling_params)"
        " VALUES (:session_id, 0, 0, :params)",
        {"session_id": session_id, "params": params},
    )


def test_sampling_params_from_another_process_apply_after_a_while(
    file: Connection, read: SessionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(file, "bare", "{}")
    assert read.sampling_params("a") == {}
    give(file, "a", '{"top_p": 0.5}')
    assert read.sampling_params("a") == {}
    monkeypatch.setattr(sampling_params, "REFRESH_SECONDS", 0.0)
    assert read.sampling_params("a") == {"top_p": 0.5}
    assert read.sampling_params("bare") == {}
    file.execute("DELETE FROM sessions")
    assert read.sampling_params("a") == {}


def test_sampling_params_from_this_process_apply_at_once(
    file: Connection, read: SessionOptions
) -> None:
    assert read.sampling_params("a") == {}
    give(file, "a", '{"top_p": 0.5}')
    read.forget("a")
    assert read.sampling_params("a") == {"top_p": 0.5}


def test_sampling_params_check_uses_an_index_instead_of_a_scan(
    file: Connection,
) -> None:
    plan = str(list(file.select(f"EXPLAIN QUERY PLAN {ANY_QUERY}")))
    assert "sessions_with_params" in plan
