"""`gateway keys import`: the orchestrator's key file becomes one with hashed tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_plugins.auth.importing import SCOPES, foreign_keys
from gateway_plugins.auth.keys import Keys
from hypothesis import given
from hypothesis import strategies as st
from serve.test_cli import run

from gateway import ConfigError

Import = Callable[..., tuple[int | str | None, list[str]]]
"""Imports these entries; gives the exit status and the lines of standard error."""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return tmp_path / "auth.keys.json"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def imported(foreign: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    def imported(*entries: object, force: bool = False) -> tuple[int | str | None, list[str]]:
        foreign.write_text(json.dumps({"keys": entries}))
        arguments = ["--file", str(made), *(["--force"] if force else [])]
        code, out, err = run(capsys, "keys", "import", str(foreign), *arguments)
        assert (out, "Traceback" in err) == ("", False), err
        return code, err.splitlines()

    return imported


def plain(token: object, id_: object = "alice", *scopes: object) -> dict[str, Any]:
    return {"id": id_, "token": token, "scopes": [*(scopes or ("realtime",))]}


def test_import_hashes_tokens_and_keeps_ids_and_scopes(imported: Import, made: Path) -> None:
    code, told = imported(plain("SECRET", "ops", *sorted(SCOPES)), plain(123, 7))
    assert code == 0
    assert told == [f"{made}: 2 keys are written, their tokens hashed"]
    keys = Keys(made.read_bytes())
    [ops, number] = [keys.find(token) for token in (b"SECRET", b"123")]
    assert ops is not None
    assert number is not None
    assert (ops.principal.id, ops.principal.scopes) == ("ops", SCOPES)
    assert (number.principal.id, [*number.principal.scopes]) == ("7", ["realtime"])
    assert "SECRET" not in made.read_text()
    assert made.stat().st_mode & 0o777 == 0o600


def test_fault_1_5_two_entries_with_one_token_are_refused_naming_both(
    imported: Import, foreign: Path, made: Path
) -> None:
    code, told = imported(plain("SECRET"), plain("other"), plain("SECRET", "bob"))
    words = (
        "keys[2] ('bob') has the same token as keys[0] ('alice'); give one of them another token"
    )
    assert (code, told) == (2, [f"{foreign}: {words}"])
    assert not made.exists()


def test_import_names_entries_that_it_leaves_out(
    imported: Import, foreign: Path, made: Path
) -> None:
    code, told = imported(
        plain("good"),
        {"token": "SECRET", "scopes": []},
        {"id": "b", "token": ""},
        plain("SECRET", "c") | {"scopes": "realtime"},
        "SECRET",
        plain("SECRET with a space", "d"),
        plain("SECRET", "e" * 201),
        plain("SECRET", "f\n"),
        plain(True, "g"),
    )
    assert code == 1
    assert "SECRET" not in "".join(told)
    length = "expected text with a length of at least 1 and with a length of at most 200"
    assert [line.removeprefix(f"{foreign}: ") for line in told[:-1]] == [
        "keys[1] is left out: it has no id",
        "keys[2] is left out: it has no token and no scopes",
        "keys[3] is left out: scopes: expected a list or null",
        "keys[4] is left out: expected a mapping",
        "keys[5] is left out: token: expected printable ASCII without spaces, 4096 at most",
        f"keys[6] is left out: id: {length}",
        "keys[7] is left out: id: expected printable characters",
        "keys[8] is left out: token: expected text or an integer",
    ]
    assert len(Keys(made.read_bytes())) == 1


def test_import_gives_no_scope_that_opened_nothing_there(imported: Import, made: Path) -> None:
    code, told = imported(plain("t", "alice", "admin", "batch", "sessions:all", "batch"))
    assert code == 1
    assert [line.split(": ", 1)[1] for line in told[:-1]] == [
        "keys[0] ('alice'): the scope 'admin' is left out: it opened nothing there",
        "keys[0] ('alice'): the scope 'sessions:all' is left out: it opened nothing there",
    ]
    key = Keys(made.read_bytes()).find(b"t")
    assert key is not None
    assert key.principal.scopes == {"batch"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"keys": []}', "has no valid key"),
        (b'{"keys": [{"id": "a", "scopes": []}]}', "keys[0] is left out: it has no token"),
        (b'{"keys": {}}', "keys: expected a list"),
        (b"[]", "expected a mapping"),
        (b'{"keys": [', "is not valid JSON, from line 1, column 11 on"),
        (b'{"keys": [' + b"[" * 100_000, "is nested more than 32 levels deep"),
        (b"\xff", "is not valid JSON"),
    ],
)
def test_import_refuses_a_file_without_keys(foreign: Path, data: bytes, words: str) -> None:
    foreign.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        foreign_keys(foreign)
    assert caught.value.problems[0].startswith(f"{foreign}: {words}")


def test_import_names_a_missing_file(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "keys", "import", str(foreign))
    assert (code, err) == (2, f"{foreign}: cannot be read: No such file or directory\n")


def test_import_replaces_a_key_file_only_with_force(imported: Import, made: Path) -> None:
    made.write_text("mine")
    code, told = imported(plain("t"))
    assert (code, told) == (2, [f"{made}: there is such a file; name another, or give --force"])
    assert made.read_text() == "mine"
    assert imported(plain("t"), force=True)[0] == 0
    assert len(Keys(made.read_bytes())) == 1


def test_import_never_writes_over_the_file_that_it_reads(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign.write_text(json.dumps({"keys": [plain("t")]}))
    before = foreign.read_bytes()
    arguments = ["--file", str(foreign), "--force"]
    code, _, err = run(capsys, "keys", "import", str(foreign), *arguments)
    assert (code, err) == (2, f"{foreign}: is the file to import; name another with --file\n")
    assert foreign.read_bytes() == before


def test_import_tells_a_bounded_number_of_lines(imported: Import) -> None:
    code, told = imported(plain("t"), *({"id": str(number)} for number in range(300)))
    assert (code, len(told)) == (1, 102)
    assert told[-2].endswith("and 200 more")


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("realtime")
foreign_entries = values | st.fixed_dictionaries(
    {}, optional={"id": values, "token": values, "scopes": values | st.lists(values)}
)


@given(entries=st.lists(foreign_entries, max_size=5))
def test_import_writes_what_the_gateway_reads(
    tmp_path_factory: pytest.TempPathFactory, entries: list[object]
) -> None:
    path = tmp_path_factory.mktemp("keys") / "foreign.json"
    path.write_text(json.dumps({"keys": entries}))
    try:
        found = foreign_keys(path)
    except ConfigError:
        return
    keys = Keys(msgspec.json.encode({"keys": found.entries}))
    assert len(keys) == len(found.entries) > 0
    assert keys.scopes <= SCOPES
