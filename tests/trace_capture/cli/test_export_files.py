"""`gateway traces export`: what is in the files, what is left out, and that nothing is spoilt."""

import errno
import io
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
import pytest
from gateway_plugins.trace_capture.cli.export import Progress
from gateway_plugins.trace_capture.exports.parquet import schema_of
from gateway_plugins.trace_capture.exports.rows import TraceRow, TrajectoryRow
from gateway_plugins.trace_capture.recording.head import Head
from gateway_plugins.trace_capture.store.row import Content
from support.records.recorded_file import Traces

from gateway import Trace

ADVICE = "--allow-incomplete writes it if it can be; --verdict COMPLETE asks for no other"

FREE_TEXT = ("messages", "raw_request", "raw_response", "injected", "sampling_params")


def exported(traces: Traces, *arguments: str) -> list[dict[str, Any]]:
    _, out, _ = traces("export", *arguments)
    return [json.loads(line) for line in out.splitlines()]


def test_export_leaves_out_and_reports_incomplete_traces(traces: Traces) -> None:
    status, out, err = traces("export")
    assert status == 1
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["COMPLETE"] * 4
    assert err.splitlines()[:2] == [
        "4 traces written",
        "2 left out: aborted 1, error_answer 1",
    ]
    assert err.splitlines()[2:] == [ADVICE]


def test_export_succeeds_if_the_options_allow_for_all_traces_left_out(traces: Traces) -> None:
    said = {
        ("--allow-incomplete",): 6,
        ("--verdict", "COMPLETE"): 4,
        ("--verdict", "INCOMPLETE"): 2,
        ("--session", "a"): 2,
        ("--session", "nobody"): 0,
    }
    for arguments, count in said.items():
        status, out, err = traces("export", *arguments)
        assert (status, err) == (0, f"{count} traces written\n")
        assert len(out.splitlines()) == count


def test_export_writes_a_trace_as_show_prints_it(traces: Traces) -> None:
    found = exported(traces, "--allow-incomplete")
    assert len(found) == 6
    for trace in found:
        assert json.loads(traces("show", trace["trace_id"])[1]) == trace


def test_export_reports_calls_that_were_never_stored(traces: Traces) -> None:
    change(traces, "UPDATE sessions SET lost = 3 WHERE session_id = 'a'")
    _, _, err = traces("export", "--session", "a")
    assert "3 calls of these sessions are not in the file: they could not be stored" in err
    _, _, err = traces("export", "--session", "b")
    assert "could not be stored" not in err
    rows = exported(traces, "--session", "a", "--trajectories")
    assert {row["session_lost"] for row in rows} == {3}


def change(traces: Traces, query: str, *values: object) -> None:
    with sqlite3.connect(traces.path) as db:
        db.execute(query, values)
    db.close()


@pytest.mark.parametrize("spoilt", [b"\1spoilt", b"\0spoilt", b"", "spoilt", 7, 0.5])
def test_export_leaves_out_damaged_traces_and_writes_the_rest(
    traces: Traces, spoilt: object
) -> None:
    change(traces, "UPDATE traces SET content = ? WHERE session_id = 'b'", spoilt)
    change(traces, "UPDATE traces SET content = ? WHERE model = 'none'", spoilt)
    status, out, err = traces("export", "--allow-incomplete")
    assert (status, len(out.splitlines())) == (0, 4)
    assert "2 left out: damaged 2" in err
    assert traces("export", "--session", "b")[0] == 1
    assert traces("export", "--session", "b", "--trajectories")[1:] == (
        "",
        f"0 trajectories written\n1 left out: damaged 1\n{ADVICE}\n",
    )
    status, out, _ = traces("list")
    assert (status, out.count("damaged")) == (0, 2)


def test_export_writes_whole_trajectories(traces: Traces) -> None:
    status, out, err = traces("export", "--trajectories")
    assert status == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["session_id"] for row in rows] == ["a", "b", "b", "c"]
    assert err.startswith("4 trajectories written\n2 left out: ")
    assert "aborted 1" in err
    assert "error_answer 1" in err
    for row in rows:
        length = len(row["token_ids"])
        assert len(row["loss_mask"]) == len(row["logprobs"]) == length > 0
        assert row["loss_mask"] == [int(one is not None) for one in row["logprobs"]]
    [first] = [row for row in rows if row["session_id"] == "a"]
    assert len(first["trace_ids"]) == 2, "the second turn goes on from the first"
    assert first["session_metadata"] == {"task": 7}
    assert [one["value"] for one in first["session_rewards"]] == [0.5]


def test_export_filters_trajectories_by_session_model_time_and_verdict(traces: Traces) -> None:
    def found(*arguments: str) -> list[tuple[str, int]]:
        rows = exported(traces, "--trajectories", *arguments)
        return [(row["session_id"], len(row["trace_ids"])) for row in rows]

    assert found("--session", "a") == [("a", 2)]
    assert found("--model", "none") == [("c", 1)], "a trace of it is that model's"
    second = exported(traces, "--session", "a")[1]
    assert ("a", 2) in found("--since", str(second["timestamp"])), "whole, although begun before"
    assert found("--since", str(second["timestamp"] + 3600)) == []
    assert len(found("--allow-incomplete")) == 5
    status, out, _ = traces("export", "--trajectories", "--verdict", "incomplete")
    assert (status, len(out.splitlines())) == (0, 1)


@pytest.mark.parametrize("trajectories", [False, True])
def test_export_to_parquet_equals_the_jsonl_export(
    traces: Traces, tmp_path: Path, trajectories: bool
) -> None:
    file = tmp_path / "out.parquet"
    which = ["--allow-incomplete", *(["--trajectories"] if trajectories else [])]
    status, out, err = traces("export", "-o", file, *which)
    assert (status, out) == (0, "")
    assert "written" in err
    rows = pyarrow.parquet.read_table(file).to_pylist()
    lines = exported(traces, *which)
    assert len(rows) == len(lines) > 0
    for row, line in zip(rows, lines, strict=True):
        for choice in () if trajectories else row["choices"]:
            assert choice.pop("top_tokens") is None
        assert list(row) == list(line)
        for name in row:
            assert alike(row[name], line[name]), name


def alike(column: Any, value: Any) -> bool:
    """Arrow's value says what JSON's does: float32 for a logprob, text for what has no one type."""
    if isinstance(value, float) and isinstance(column, float):
        return column == pytest.approx(value, rel=1e-6)
    if isinstance(column, list) and isinstance(value, list):
        return len(column) == len(value) and all(map(alike, column, value))
    if isinstance(column, dict) and isinstance(value, dict):
        return list(column) == list(value) and all(alike(column[k], value[k]) for k in value)
    if isinstance(column, str) and not isinstance(value, str):
        return bool(json.loads(column) == value)
    return bool(column == value)


def test_parquet_schema_has_the_fields_of_the_records() -> None:
    for row_type in (Trace, TrajectoryRow):
        assert schema_of(row_type).names == list(row_type.__struct_fields__)
    types = {field.name: str(field.type) for field in schema_of(Trace)}
    assert types["prompt_token_ids"] == types["completion_token_ids"] == "list<item: int32>"
    assert types["logprobs"] == "list<item: float>"
    assert types["reasons"] == "list<item: string>"
    assert (types["timestamp"], types["streamed"]) == ("double", "bool")
    assert {types[name] for name in FREE_TEXT} == {"string"}
    assert types["weight_version"] == "string"
    packed = "struct<dtype: string, shape: list<item: int32>, data: binary>"
    choice = schema_of(TraceRow).field("choices").type.value_type
    assert str(choice.field("routing_matrices").type) == packed
    assert str(choice.field("top_logprobs").type) == f"struct<ids: {packed}, logprobs: {packed}>"
    assert list(schema_of(TraceRow).names) == list(Trace.__struct_fields__)
    types = {field.name: str(field.type) for field in schema_of(TrajectoryRow)}
    assert types["routed_experts"] == packed
    assert types["token_ids"] == types["loss_mask"] == "list<item: int32>"
    assert types["logprobs"] == "list<item: float>"
    assert types["weight_versions"] == types["trace_ids"] == "list<item: string>"


@pytest.mark.parametrize("token_id", [1 << 31, 1 << 63, -1 << 70])
def test_export_leaves_out_a_row_that_parquet_cannot_hold(
    traces: Traces, tmp_path: Path, token_id: int
) -> None:
    stored = msgspec.json.encode(Trace(trace_id="x", prompt_token_ids=[token_id]))
    head = {"whole": True}
    blob = whole_row(head, stored)
    change(traces, "UPDATE traces SET content = ?, base = NULL WHERE session_id = 'b'", blob)
    status, _, err = traces("export", "--allow-incomplete", "-o", tmp_path / "out.parquet")
    assert status == 0
    assert "5 traces written\n1 left out: does_not_fit 1" in err
    assert len(pyarrow.parquet.read_table(tmp_path / "out.parquet")) == 5


def whole_row(head: dict[str, Any], stored: bytes) -> bytes:
    """The content of a row whose trace a hook has changed."""
    content = Content(head=Head(**head), skeleton=stored)
    return b"\0" + msgspec.msgpack.encode(content)


def test_export_writes_parquet_in_row_groups(
    traces: Traces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway_plugins.trace_capture.exports.parquet.ROWS", 4)
    traces("export", "--allow-incomplete", "-o", tmp_path / "out.pq")
    file = pyarrow.parquet.ParquetFile(tmp_path / "out.pq")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 2]


def test_export_of_no_traces_writes_a_file_with_columns(traces: Traces, tmp_path: Path) -> None:
    traces("export", "--session", "nobody", "-o", tmp_path / "out.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, table.schema.names) == (0, list(Trace.__struct_fields__))
    traces("export", "--session", "nobody", "-o", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_export_names_the_package_to_install_without_pyarrow(
    traces: Traces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    status, _, err = traces("export", "-o", tmp_path / "out.parquet")
    assert (status, err.count("\n")) == (2, 1)
    assert "pip install 'llm-call-gateway[parquet]'" in err
    assert not (tmp_path / "out.parquet").exists()
    assert traces("export", "--session", "a")[0] == 0


def test_export_format_follows_the_suffix_or_the_option(traces: Traces, tmp_path: Path) -> None:
    for name, arguments in (("a.ndjson", ()), ("b.JSONL", ()), ("c", ()), ("d.txt", ("jsonl",))):
        given = [part for one in arguments for part in ("--format", one)]
        assert traces("export", "--session", "a", "-o", tmp_path / name, *given)[0] == 0
        assert len((tmp_path / name).read_text().splitlines()) == 2
    status, _, err = traces("export", "-o", tmp_path / "e.csv")
    assert (status, err.count("\n")) == (2, 1)
    assert "say --format" in err
    status, _, err = traces("export", "--format", "parquet")
    assert status == 2
    assert "-o" in err


def test_export_keeps_an_existing_file_without_force(traces: Traces, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text("mine")
    status, _, err = traces("export", "-o", file)
    assert (status, file.read_text()) == (2, "mine")
    assert err == f"{file}: is there already; --force replaces it\n"
    assert traces("export", "--session", "a", "-o", file, "--force")[0] == 0
    assert len(file.read_text().splitlines()) == 2
    assert file.stat().st_mode & 0o777 == 0o600, "it holds what callers wrote"


def test_export_never_replaces_a_folder_or_a_link(traces: Traces, tmp_path: Path) -> None:
    link = tmp_path / "null.jsonl"
    link.symlink_to("/dev/null")
    for path in (tmp_path, link):
        status, _, err = traces("export", "--format", "jsonl", "-o", path, "--force")
        assert (status, err.count("\n")) == (2, 1)
        assert "is not a file" in err
    status, _, err = traces("export", "-o", tmp_path / "none" / "out.jsonl")
    assert (status, err.count("\n")) == (2, 1)
    assert os.strerror(errno.ENOENT) in err


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_export_that_fails_leaves_no_file(
    traces: Traces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    before = sorted(tmp_path.iterdir())
    status, _, err = traces("export", "-o", tmp_path / f"out.{suffix}")
    assert (status, err.count("\n")) == (2, 1)
    assert "out." in err
    assert "No space left on device" in err
    assert sorted(set(tmp_path.iterdir()) - set(before)) == beside(traces.path)


def beside(path: Path) -> list[Path]:
    """What SQLite keeps beside a file."""
    names = (path.with_name(path.name + end) for end in ("-shm", "-wal"))
    return [name for name in names if name.exists()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_export_draws_a_progress_bar_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "EVERY", 0.0)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        Progress(stream).follow(iter([None] * 4), "traces", lambda: 4)
    drawn = terminal.getvalue().split("\r")[1:]
    assert drawn[1] == f"[{'#' * 15:30}]  50%  2 of 4 traces"
    assert drawn[-1] == "\x1b[K"
    assert file.getvalue() == ""
