"""Where an operator reads that a name in the configuration has changed."""

import logging
from pathlib import Path

import pytest
from serve.test_cli import run
from support.gateways.reloadable import reloadable, write_text

from gateway import Gateway
from gateway.cluster.peers import Peers
from gateway.config import load

UNTIL = "the old name works until 0.2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


async def test_gateway_warns_once_at_its_start(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_text(file, "limits: {max_calls: 5}\nplugins:\n - trace_capture:\n    offered: 9\n")
    expected = [
        f"{file}:1: `limits` is now called `server_limits`; {UNTIL}",
        f"{file}:4: plugins.trace_capture: `offered` is now called `max_queued`; {UNTIL}",
    ]
    config = load(file)
    gateway = Gateway(config)
    assert warnings(caplog) == [], "logs are not set up while a gateway is built"
    async with gateway:
        assert warnings(caplog) == expected
    folder = tmp_path / "peers"
    folder.mkdir()
    async with Gateway(config, peers=Peers(1, 2, folder)):
        assert warnings(caplog) == expected, "the other process has logged them"


async def test_reload_reports_former_names_where_they_stand_now(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloadable(file, ("weight_sync", {"held": 5})) as running:
        caplog.clear()
        write_text(file, '{"plugins": [\n"sessions",\n\n{"weight_sync": {"held": 5}}]}')
        moved = (await running.reload()).json()
        expected = f"{file}:4: plugins.weight_sync: `held` is now called `max_held`; {UNTIL}"
        assert moved["warnings"] == [expected] == warnings(caplog)
        assert moved["changed"]["plugins"] == {
            "added": ["sessions"],
            "removed": [],
            "changed": [],
            "moved": False,
        }
        write_text(file, '{"limits": {}, "plugins": [{"weight_sync": {"max_held": 5}}]}')
        renamed = (await running.reload()).json()
        assert renamed["warnings"] == [f"{file}:1: `limits` is now called `server_limits`; {UNTIL}"]
        assert "warnings" not in renamed["changed"]["settings"]


def test_config_check_prints_former_names_and_is_content(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(file, "db_path: d.db\nplugins: [auth: {check: 2}]\n")
    code, out, err = run(capsys, "config", "check", str(file), "--store", "sqlite")
    assert not code
    assert out == "ok: 0 workers, 1 plugins\n"
    ignored = "leave --store out, this value sets nothing"
    assert err.splitlines() == [
        f"warning: {file}:1: `db_path` is now called `storage.path`; {UNTIL}",
        f"warning: --store is now called --storage-path; {ignored}",
        f"warning: {file}:2: plugins.auth: `check` is now called `check_interval`; {UNTIL}",
    ]


def test_config_check_refuses_both_names(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(file, "plugins:\n - auth:\n    check: 2\n    check_interval: 3\n")
    code, out, err = run(capsys, "config", "check", str(file))
    assert (code, out) == (2, "")
    both = "`check` is the old name of `check_interval`"
    assert err == f"{file}:3: plugins.auth: {both}, which {file}:4 sets; write only that\n"


def test_commands_of_plugins_know_the_former_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("usage",), ("traces", "list")):
        code, _, err = run(capsys, *command, "--db-path", str(tmp_path / "none.db"))
        assert code == 2
        assert err.startswith("warning: --db-path is now called --storage-path; ")
        assert f"{tmp_path / 'none.db'}: " in err
