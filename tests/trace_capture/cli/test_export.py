"""`gateway traces`, on a file that a gateway has written."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.trace_capture.cli.open_file import opened
from gateway_plugins.trace_capture.store import queries
from support.gateways.capturing import call, capturing
from support.records.recorded_file import Traces

from gateway import Config, cli
from gateway.config import StorageSettings
from gateway.testing import GatewayFor

GATEWAY = Path(sys.executable).with_name("gateway")


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def listed(traces: Traces, *arguments: str) -> list[dict[str, Any]]:
    status, out, err = traces("list", "--json", *arguments)
    assert (status, err) == (0, "")
    return json_lines(out)


def test_traces_list_prints_a_table_with_the_newest_last(traces: Traces) -> None:
    status, out, err = traces("list")
    assert (status, err) == (0, "")
    headings, *lines = [line.split() for line in out.splitlines()]
    assert " ".join(headings) == "ID TIME SESSION MODEL WORKER TOKENS VERDICT REASONS"
    assert [line[2] for line in lines] == ["a", "a", "b", "c", "c", "c"]
    assert [line[1] for line in lines] == sorted(line[1] for line in lines)
    assert [line[6] for line in lines] == ["COMPLETE"] * 4 + ["INCOMPLETE"] * 2
    assert [line[7:] for line in lines[4:]] == [["aborted"], ["error_answer"]]
    starts = {line.index("COMPLETE") for line in out.splitlines() if " COMPLETE" in line}
    assert len(starts) == 1


def test_traces_list_filters_by_its_options(traces: Traces) -> None:
    lines = listed(traces)
    ids = [line["trace_id"] for line in lines]

    def found(*arguments: str) -> list[int]:
        return [ids.index(line["trace_id"]) for line in listed(traces, *arguments)]

    assert found() == [0, 1, 2, 3, 4, 5]
    assert found("--limit", "2") == [4, 5]
    assert found("--limit", "6") == found("--limit", "0") == found("--limit", "9") == found()
    assert found("--session", "a") == [0, 1]
    assert found("--session", "b", "--session", "a") == [0, 1, 2]
    assert found("--session", "a", "--limit", "1") == [1]
    assert found("--session", "nobody") == []
    assert found("--verdict", "incomplete") == [4, 5]
    assert found("--model", "none") == [5]
    assert found("--since", lines[2]["time"], "--until", lines[4]["time"]) == [2, 3]
    assert found("--since", "1h") == found("--since", "0") == found()
    assert found("--until", "1h") == found("--since", str(time.time() + 60)) == []


def test_traces_show_agrees_with_the_listed_line(traces: Traces) -> None:
    for line in listed(traces):
        status, out, _ = traces("show", line["trace_id"])
        assert status == 0
        trace = json.loads(out)
        assert out.startswith('{\n  "trace_id": ')
        counts = {"prompt": line["prompt_tokens"], "completion": line["completion_tokens"]}
        assert trace["token_counts"] == counts
        for name in ("session_id", "model", "worker", "verdict", "reasons"):
            assert trace[name] == line[name]


def test_traces_show_reports_an_unknown_trace(traces: Traces) -> None:
    status, out, err = traces("show", "none")
    assert (status, out) == (1, "")
    assert err == f"{traces.path}: there is no trace none\n"


@pytest.mark.parametrize("given", ["2 days", "yesterday", "", "-1", "nan", "nanh", "inf", "1e400d"])
def test_traces_list_rejects_an_invalid_time(traces: Traces, given: str) -> None:
    status, _, err = traces("list", f"--since={given}")
    assert status == 2
    assert "expected a time (ISO 8601" in err


@pytest.mark.parametrize("limit", ["-1", "x", "1.5", "٣", "9" * 40])
def test_traces_list_rejects_an_invalid_limit(traces: Traces, limit: str) -> None:
    status, _, err = traces("list", f"--limit={limit}")
    assert status == 2
    assert "expected a number from 0 on" in err


def test_traces_list_escapes_control_characters_and_cuts_long_ids(traces: Traces) -> None:
    change(traces, "UPDATE traces SET session_id = ? WHERE session_id = 'a'", "\x1b[2J\nx\u202e")
    change(traces, "UPDATE traces SET session_id = ? WHERE session_id = 'b'", "long" * 30)
    _, out, _ = traces("list")
    assert "\\x1b[2J\\nx\\u202e" in out
    assert len(out.splitlines()) == 7
    assert "long" * 9 + "l..." in out


def change(traces: Traces, query: str, *values: object) -> None:
    with sqlite3.connect(traces.path) as db:
        db.execute(query, values)
    db.close()


def test_traces_command_reports_a_missing_or_foreign_file_on_one_line(
    traces: Traces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, other, rllm = tmp_path / "a.txt", tmp_path / "b.db", tmp_path / "c.db"
    text.write_text("not a database at all, but long enough to have a header\n" * 100)
    for path, table in ((other, "films (title TEXT)"), (rllm, "traces (trace_id TEXT, data TEXT)")):
        with sqlite3.connect(path) as db:
            db.execute(f"CREATE TABLE {table}")
        db.close()
    said = {
        tmp_path / "none.db": "there is no such file",
        tmp_path: "is not a file",
        text: "cannot be read: ",
        other: "is not a file of trace_capture's",
        rllm: "is not a file of trace_capture's",
        Path(":memory:"): "ask the gateway over HTTP",
    }
    for path, why in said.items():
        for action in (["list"], ["show", "x"], ["export"]):
            status, out, err = Traces(path, capsys)(*action)
            assert (status, out, err.count("\n")) == (2, "", 1)
            assert why in err
    assert not (tmp_path / "none.db").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_traces_list_reads_a_file_in_a_read_only_folder(traces: Traces) -> None:
    folder = traces.path.parent
    folder.chmod(0o555)
    try:
        assert len(listed(traces)) == 6
    finally:
        folder.chmod(0o755)


def test_traces_command_finds_the_file_by_config_environment_or_option(
    traces: Traces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "gateway.yaml"
    config.write_text("storage: {path: traces.db}\nplugins: [a_plugin_that_is_not_installed]\n")
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--config", str(config)], {}),
        ([], {"GATEWAY_CONFIG": str(config)}),
        ([], {"GATEWAY_STORAGE__PATH": "traces.db"}),
        (["--config", str(config), "--db-path", "traces.db"], {"GATEWAY_STORAGE__PATH": "none.db"}),
    ]
    for arguments, environment in ways:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as stopped:
                cli.main(["traces", "list", *arguments])
        assert stopped.value.code == 0


@pytest.mark.parametrize("action", ["list", "list --json", "export", "show"])
def test_traces_command_exits_silently_on_a_closed_pipe(traces: Traces, action: str) -> None:
    [trace_id] = [line["trace_id"] for line in listed(traces, "--limit", "1")]
    command = [*action.split(), *([trace_id] if action == "show" else [])]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [str(GATEWAY), "traces", *command, "--storage-path", str(traces.path)],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_traces_command_reports_a_full_output_device(traces: Traces) -> None:
    for action in ("list", "export"):
        with Path("/dev/full").open("w") as full:
            command = [str(GATEWAY), "traces", action, "--storage-path", str(traces.path)]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert "standard output: No space left on device" in done.stderr
        assert "Traceback" not in done.stderr


async def test_traces_list_reads_the_file_of_a_running_gateway(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await capturing(gateway_for, tmp_path)
    traces = Traces(tmp_path / "traces.db", capsys)
    for count in (1, 2, 3):
        await call(running, "a")
        assert len(listed(traces)) == count


async def test_traces_reader_sees_a_snapshot_of_the_opened_file(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    running = await capturing(gateway_for, tmp_path)
    settings = Config(storage=StorageSettings(path=str(tmp_path / "traces.db")))
    await call(running, "a")
    for _ in range(2):
        with opened(settings) as db:
            before = queries.count(db, queries.TraceFilter())
            await call(running, "a")
            await running.client.delete("/sessions/b")
            assert queries.count(db, queries.TraceFilter()) == before
    with opened(settings) as db:
        assert queries.count(db, queries.TraceFilter()) == 3
