"""docs/capture.md says what the code says, and its commands run."""

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

from gateway_plugins.trace_capture import TraceCapture
from gateway_plugins.trace_capture.http.routes import capture_routes
from support.gateways.capturing import CAPTURE, capturing
from support.paths import CONFIGS, DOCS

from gateway import Divergence, Gateway, Reason, Trace, TraceChoice
from gateway.config import StorageSettings, load
from gateway.control.routes import ControlRoute
from gateway.testing import GatewayFor

MANUAL = (DOCS / "capture.md").read_text()
GATEWAY = Path(sys.executable).with_name("gateway")
COMMANDS = re.findall(r"^```sh\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/capture.md has no section {title!r}"
    return found[1]


def first_column(table: str) -> list[str]:
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]


def test_capture_manual_lists_each_field_of_a_trace_and_a_choice() -> None:
    for title, struct in (("Fields of a trace", Trace), ("Fields of a choice", TraceChoice)):
        assert sorted(first_column(section(title))) == sorted(struct.__struct_fields__)


def test_capture_manual_lists_each_reason() -> None:
    assert first_column(section("Verdict")) == list(get_args(Reason))


def test_capture_manual_lists_each_cause_of_a_divergence() -> None:
    causes = get_args(Divergence.__annotations__["cause"])
    assert all(f"`{cause}`" in section("Trajectories") for cause in causes)
    assert len(causes) == 9


def test_capture_manual_lists_each_option() -> None:
    assert sorted(first_column(section("Options"))) == sorted(TraceCapture.Config.__struct_fields__)


async def test_capture_manual_lists_each_endpoint(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    plugin = live.plugin(TraceCapture)
    routes = [one for one in capture_routes(live.gateway, plugin) if isinstance(one, ControlRoute)]
    there = {f"{method} {one.path}" for one in routes for method in (one.methods or ())}
    there = {one for one in there if not one.startswith("HEAD ")}
    # A session of that name is read and deleted as any other one is.
    there -= {"GET /sessions/batch_delete", "DELETE /sessions/batch_delete"}
    assert sorted(first_column(section("Endpoints"))) == sorted(there)


async def test_capture_manual_s_curl_and_python_commands_run(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    with_curl = [block for block in COMMANDS if "curl" in block]
    assert len(with_curl) == 5
    for block in with_curl:
        command = block.replace("http://127.0.0.1:9090", live.url).replace("curl ", "curl -fsS ")
        await shell(command, tmp_path)
    [python] = re.findall(r"^```python\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)
    code = python.replace("http://127.0.0.1:9090", live.url)
    assert "[0, 0, " in await shell(f"{sys.executable} -c {shlex.quote(code)}", tmp_path)


async def test_capture_manual_s_traces_commands_read_the_file(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(
        "sessions", CAPTURE, storage=StorageSettings(path=str(tmp_path / "gateway.db"))
    )
    await shell(COMMANDS[1].replace("http://127.0.0.1:9090", live.url), tmp_path)
    [commands] = [block for block in COMMANDS if "gateway traces" in block]
    out = await shell(commands.replace("gateway ", f"{GATEWAY} "), tmp_path)
    assert out.count("my-agent") == 1
    assert len((tmp_path / "traces.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "my-agent.jsonl").read_text().splitlines()) == 1


async def shell(command: str, folder: Path) -> str:
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-ec", command], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_capture_config_file_loads_its_plugins() -> None:
    file = CONFIGS / "capture.yaml"
    gateway = Gateway(load(file, {}))
    names = [plugin.name for plugin in gateway.plugins.loaded]
    assert names == ["sessions", "trace_capture", "access_log"]
