"""The command line, as an operator types it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli import main
from gateway.kernel import active

GATEWAY = Path(sys.executable).with_name("gateway")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    """Exit status, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def test_installed_command_prints_its_version() -> None:
    done = subprocess.run([GATEWAY, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"gateway {__version__}, kernel: {active()}\n"


def test_version_of_a_kernel_that_is_none_is_a_mistake() -> None:
    environ = {**os.environ, "GATEWAY_KERNEL": "rust"}
    done = subprocess.run([GATEWAY, "--version"], capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "GATEWAY_KERNEL=rust: python or native was expected\n"


@pytest.mark.parametrize("command", ["serve", "demo", "simulate", "plugins", "config"])
def test_each_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"gateway {command}" in out


def test_demo_offers_no_examples_if_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([GATEWAY, "demo", "--port", port], capture_output=True, text=True)
    assert done.returncode
    assert "address already in use" in done.stderr
    assert not done.stdout


def test_plugins_command_prints_the_chain_of_each_hook(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plugins", "--plugin", "sessions", "--plugin", "access_log")
    chain = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert not code
    assert chain["admit"] == "sessions"
    assert chain["call_finished"] == "access_log"
    assert chain["pick_worker"] == "-"


def test_unknown_plugin_is_reported_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "plugins", "--plugin", "sesions")
    assert code == 2
    assert "unknown plugin 'sesions'; did you mean 'sessions'?" in err
    assert "Traceback" not in err


def test_config_check_reports_every_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("port: high\ntimeuts: {connect: 1}\n")
    code, _, err = run(capsys, "config", "check", str(file))
    assert code == 2
    assert len(err.splitlines()) == 2
    assert "gateway.yaml:1: port" in err
    assert 'did you mean "timeouts"?' in err


def test_config_check_accepts_a_valid_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('workers = ["http://127.0.0.1:8000/v1"]\nplugins = ["sessions"]\n')
    code, out, _ = run(capsys, "config", "check", "--config", str(file))
    assert not code
    assert "1 workers, 1 plugins" in out


def test_config_schema_prints_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "schema")
    assert not code
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


def test_public_host_without_authentication_is_rejected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(capsys, "config", "check", "--host", "0.0.0.0")
    assert code == 2
    assert "allow_anonymous: true" in err
    code, _, _ = run(capsys, "config", "check", "--host", "0.0.0.0", "--allow-anonymous")
    assert not code


def test_authentication_plugin_allows_a_public_host(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plugin = tmp_path / "keys.py"
    plugin.write_text(
        "from gateway import Principal, hookimpl\n"
        "@hookimpl\n"
        "async def authenticate(call):\n"
        "    return Principal('anyone')\n"
    )
    code, _, _ = run(capsys, "config", "check", "--host", "0.0.0.0", "--plugin", str(plugin))
    assert not code


def test_plugins_add_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "greet.py").write_text(
        "from gateway import hookimpl\n"
        "@hookimpl\n"
        "def add_commands(subcommands):\n"
        "    parser = subcommands.add_parser('greet')\n"
        "    parser.add_argument('--config')\n"
        "    parser.set_defaults(run=lambda options: print('hello'))\n"
    )
    file = tmp_path / "gateway.yaml"
    file.write_text(f"plugins: [{tmp_path}/greet.py]\n")
    code, out, _ = run(capsys, "greet", "--config", str(file))
    assert not code
    assert out == "hello\n"


def test_help_lists_the_commands_of_installed_plugins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    told = " ".join(out.split())
    names = "batch, doctor, eval, import-orchestrator, keys, replay, traces, upload, usage"
    assert f"Commands of installed plugins: {names}." in told
    code, out, _ = run(capsys, "traces", "--help")
    assert code == 0
    assert "export" in out


def test_simulate_rejects_an_unknown_fault(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "simulate", "--fault", "explode")
    assert code == 2
    assert "explode" in err
    assert "reset" in err
