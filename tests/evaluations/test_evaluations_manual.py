"""docs/evaluations.md: its tables are complete, and the commands that it prints work."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from gateway_plugins.evaluations.doors.routes import Doors
from gateway_plugins.evaluations.options import Options
from support.evaluations.repositories import Folder, started
from support.manual import Manual, running, shell
from support.paths import DOCS, ROOT

from gateway.testing import GatewayFor

MANUAL = Manual(DOCS / "evaluations.md")
PLUGIN = "gateway_plugins.evaluations:Evaluations"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("demo")
    (place / "evaluations").symlink_to(ROOT / "evaluations")
    with running("demo", "--plugin", "batch", "--plugin", PLUGIN, cwd=place) as url:
        yield url


@pytest.mark.slow
def test_printed_commands_list_and_submit(demo: str, tmp_path: Path) -> None:
    printed = shell(MANUAL.block("sh", "/eval/evals", demo), tmp_path)
    listed, _, submitted = printed.partition("}]}")
    assert "example" in listed
    assert json.loads(submitted)["status"] == "submitted"


@pytest.mark.slow
def test_printed_command_submits_and_prints_scores(demo: str, tmp_path: Path) -> None:
    block = MANUAL.block("sh", "gateway eval submit sim")
    commands = [f"{line} --url {demo}" for line in block.splitlines()]
    printed = shell("\n".join(commands), tmp_path)
    assert "example: completed, 10 of 10" in printed
    assert "  accuracy  0" in printed


def test_manual_lists_each_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", MANUAL.text, re.MULTILINE))
    fields = msgspec.structs.fields(Options)
    assert rows == {one.name: json.dumps(_default(one)) for one in fields}


def _default(field: msgspec.structs.FieldInfo) -> object:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


async def test_manual_lists_each_route(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await started(gateway_for, Folder(tmp_path))
    doors = Doors(live.gateway, lambda: pytest.fail("no request comes"))
    paths = {getattr(route, "path", "") for route in doors.routes(live.gateway)}
    listed = set(re.findall(r"^\| `\w+ (/eval\S*)` \|", MANUAL.text, re.MULTILINE))
    assert paths - {"/eval"} == listed


def test_manual_lists_each_code_of_the_plugin() -> None:
    files = (ROOT / "plugins/gateway_plugins/evaluations").rglob("*.py")
    codes = set(
        re.findall(r'^    code = "(\w+)"$', "".join(one.read_text() for one in files), re.MULTILINE)
    )
    section = MANUAL.text.partition("\n## Errors\n")[2].partition("\n## ")[0]
    assert codes <= set(re.findall(r"`(\w+)`", section))
