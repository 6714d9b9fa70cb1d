"""docs/runtime.md on moving: its table is the table of the code, and its commands run."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_plugins.runtime.importing.variables import VARIABLES, Variable
from gateway_plugins.runtime.options import Docker, Model, Options, Rules, Runtime
from serve.test_cli import run
from support.paths import DOCS

SECTION = (
    (DOCS / "runtime.md")
    .read_text()
    .partition("\n## Moving from llm-gateway\n")[2]
    .partition("\n## ")[0]
)


def row(variable: Variable) -> str:
    words = ("", "required", "by type")
    default = variable.default if variable.default in words else f"`{variable.default}`"
    option = f"`{variable.option}`" if variable.option else "none"
    cells = (f"`{variable.name}`", default, option, variable.note)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def test_manual_lists_each_variable_as_the_code_does() -> None:
    rows = re.findall(r"^\| `.*$", SECTION, re.MULTILINE)
    assert rows == [row(variable) for variable in VARIABLES]


def option_names() -> Iterator[str]:
    kinds = {
        "runtime.": Options,
        "runtime.models[].": Model,
        "runtime.models[].docker.": Docker,
        "runtime.runtimes[].": Runtime,
        "runtime.rules.": Rules,
    }
    for prefix, kind in kinds.items():
        yield from (f"{prefix}{field}" for field in kind.__struct_fields__)


def test_table_leads_to_options_that_exist() -> None:
    options = {one.option for one in VARIABLES if one.option.startswith("runtime.")}
    assert options <= {*option_names()}


@pytest.mark.usefixtures("empty_folder")
def test_printed_import_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("REALTIME_MODEL=a\n")
    key = {"id": "alice", "token": "TOKEN", "scopes": ["realtime"]}
    Path("auth.keys.json").write_text(json.dumps({"keys": [key]}))
    [block] = re.findall(r"^```sh\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        _, *arguments = shlex.split(line)
        assert not run(capsys, *arguments)[0]
