"""docs/keys.md says what the code says, and what it shows runs."""

import json
import re
import shlex
from pathlib import Path

import msgspec
import pytest
from gateway_plugins.auth import Auth, KeysUnavailable, slowing
from gateway_plugins.auth.keys import Entry, Keys
from gateway_plugins.auth.reading import MAX_BYTES
from serve.test_cli import run
from support.paths import DOCS

from gateway import SCOPES

MANUAL = (DOCS / "keys.md").read_text()


def first_column(heading: str) -> list[str]:
    """The words in backquotes in the first cells of the table with this head."""
    table = MANUAL.split(heading, 1)[1].split("\n\n", 1)[0]
    cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)


def test_the_manual_lists_each_scope_field_option_and_metric() -> None:
    assert set(first_column("| scope | permits |")) == SCOPES
    assert first_column("| field | meaning |") == [*Entry.__struct_fields__]
    assert first_column("| option | default | meaning |") == [*Auth.Config.__struct_fields__]
    told = Auth(Auth.Config()).samples()
    assert first_column("| metric | labels | meaning |") == [
        *dict.fromkeys(one.name for one in told)
    ]


def test_the_manual_gives_each_limit_and_default() -> None:
    assert f"up to {MAX_BYTES >> 20} MiB" in MANUAL
    assert (slowing.FREE_PER_MINUTE, slowing.MAX_DELAY, slowing.MAX_WAITING) == (10, 2.0, 100)
    default = Auth.Config()
    assert f"| `keys_file` | `{default.keys_file}` |" in MANUAL
    assert f"| `check_interval` | `{default.check_interval}` |" in MANUAL
    assert f"| {KeysUnavailable.status} | `{KeysUnavailable.code}` |" in MANUAL


def test_the_keys_file_in_the_manual_is_valid() -> None:
    [text] = code("json")
    assert len(Keys(text.encode())) == 3
    written = {name for entry in msgspec.json.decode(text)["keys"] for name in entry}
    assert written == {*Entry.__struct_fields__}


@pytest.mark.usefixtures("empty_folder")
def test_the_commands_in_the_manual_run(capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"id": "alice", "token": "in-plain-text", "scopes": ["realtime"]}
    Path("auth.keys.json").write_text(json.dumps({"keys": [plain]}))
    for line in "".join(code("bash")).splitlines():
        program, *arguments = shlex.split(line.partition(" >")[0])
        assert program == "gateway"
        assert run(capsys, *arguments)[0] == 0
