"""`gateway usage` prints what the plugin has counted, and says what is wrong where it cannot."""

import csv
import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from usage.test_usage_verify import Command, all_kinds, usage

from gateway.cli import main

__all__ = ["all_kinds", "usage"]  # fixtures


@pytest.fixture
def filled(usage: Command, all_kinds: Path) -> Command:
    shutil.copy(all_kinds, usage.path)
    return usage


def test_usage_command_prints_a_row_per_key(filled: Command) -> None:
    status, out, err = filled()
    heads, *rows = out.splitlines()
    assert (status, err) == (0, "")
    assert heads.split()[:3] == ["KEY", "REQUESTS", "SUCCESSES"]
    assert [row.split()[0] for row in rows] == ["ada", "bob", "eve"]
    assert len({len(line) for line in (heads, *rows)}) == 1, "numbers stand to the right"


def test_usage_command_groups_and_filters_by_its_options(filled: Command) -> None:
    status, out, _ = filled("--by", "day,key,source", "--key", "bob", "--json")
    assert status == 0
    [row] = map(json.loads, out.splitlines())
    assert (row["key"], row["source"]) == ("bob", "eval")
    same = filled("--by", "day,key,source", "--key", "bob", "--json", "--since", str(row["day"]))
    assert same[1] == out
    assert filled("--until", "2000-01-01") == (0, "", "")


def test_usage_command_sums_agree_for_every_grouping(filled: Command) -> None:
    def total(*arguments: str) -> int:
        _, out, _ = filled(*arguments, "--json")
        return sum(json.loads(line)["total_tokens"] for line in out.splitlines())

    everything = total()
    assert everything == total("--by", "model") == total("--by", "day,worker,source") > 0
    assert everything == total("--key", "ada") + total("--key", "bob") + total("--key", "eve")


def test_usage_command_writes_readable_csv(filled: Command, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    assert filled("--by", "key,model", "--csv", str(file)) == (0, "", "")
    _, out, _ = filled("--by", "key,model", "--csv", "-")
    assert file.read_bytes().decode() == out
    _, lines, _ = filled("--by", "key,model", "--json")
    told = [
        {name: str(value) for name, value in json.loads(line).items()} for line in lines.split()
    ]
    assert list(csv.DictReader(io.StringIO(out))) == told
    status, _, err = filled("--csv", str(tmp_path))
    assert (status, err) == (2, f"{tmp_path}: cannot be written: Is a directory\n")


def test_usage_command_escapes_control_characters(filled: Command) -> None:
    with closing(sqlite3.connect(filled.path)) as db:
        db.execute("UPDATE usage_calls SET model = char(27) || '[2J' WHERE key = 'eve'")
        db.commit()
    assert r"\x1b[2J" in filled("--by", "model")[1]


def test_usage_command_reports_an_unreadable_file(
    usage: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage() == (
        2,
        "",
        f"{usage.path}: there is no such file; name one with --storage-path or --config\n",
    )
    usage.path.write_bytes(b"no database, and long enough to be looked at " * 40)
    assert usage()[2].startswith(f"{usage.path}: cannot be read: ")
    usage.path.unlink()
    sqlite3.connect(usage.path).close()
    assert "has no usage" in usage("verify")[2]
    with pytest.raises(SystemExit) as stopped:
        main(["usage", "verify", "--storage-path", str(usage.path)])
    assert stopped.value.code == 2
    assert "let it have trace_capture" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--by", "colour"), ("--since", "yesterday"), ("--csv", "x", "--json")]
)
def test_usage_command_rejects_invalid_arguments(
    usage: Command, arguments: tuple[str, ...]
) -> None:
    assert usage(*arguments)[0] == 2


def test_usage_command_refers_to_http_for_a_database_in_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_STORAGE__PATH", ":memory:")
    with pytest.raises(SystemExit) as stopped:
        main(["usage"])
    assert stopped.value.code == 2
    assert "GET /monitor/key_usage" in capsys.readouterr().err
