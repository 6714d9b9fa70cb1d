"""`gateway keys`, as an operator types it."""

import asyncio
import errno
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.auth import editing
from gateway_plugins.auth.keys import Entry, Keys
from serve.test_cli import GATEWAY, run
from support.gateways.with_keys import TOKEN, KeysOnDisk, key

Keyring = Callable[..., tuple[str, str]]
"""Runs one action on the test's file; gives standard output and standard error."""


@pytest.fixture
def disk(tmp_path: Path) -> KeysOnDisk:
    return KeysOnDisk(tmp_path / "keys.json")


@pytest.fixture
def keys(disk: KeysOnDisk, capsys: pytest.CaptureFixture[str]) -> Keyring:
    def keys(*arguments: str, status: int = 0) -> tuple[str, str]:
        code, out, err = run(capsys, "keys", *arguments, "--file", str(disk.path))
        assert (code, "Traceback" in err) == (status, False), err
        return out, err

    return keys


def written(disk: KeysOnDisk) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(disk.path.read_bytes())["keys"]
    return found


def fault(disk: KeysOnDisk, token: str, now: float) -> str | None:
    """Why the gateway would refuse this token."""
    found = Keys(disk.path.read_bytes()).find(token.strip().encode())
    return "unknown" if found is None else found.fault(now)


def digest(token: str) -> str:
    return hashlib.sha256(token.strip().encode()).hexdigest()


def test_keys_create_writes_all_given_fields(keys: Keyring, disk: KeysOnDisk) -> None:
    bound = ["--model", "m1", "--model", "m2", "--worker", "w", "--label", "team=rl=1"]
    scopes = ["--scope", "eval", "--scope", "sessions"]
    out, err = keys("create", "--id", "bob", *scopes, "--expires", "2030-01-01", *bound)
    assert re.fullmatch(r"gw-[A-Za-z0-9_-]{43}\n", out)
    assert out.strip() not in err
    assert written(disk) == [
        {
            "id": "bob",
            "token_sha256": digest(out),
            "scopes": ["eval", "sessions"],
            "expires": "2030-01-01T00:00:00Z",
            "models": ["m1", "m2"],
            "workers": ["w"],
            "labels": {"team": "rl=1"},
        }
    ]
    assert disk.path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(disk.path.parent) == ["keys.json"]  # noqa: PTH208  names alone


def test_keys_create_defaults_to_the_realtime_scope(keys: Keyring, disk: KeysOnDisk) -> None:
    out, err = keys("create", "--id", "bob")
    assert written(disk) == [{"id": "bob", "token_sha256": digest(out), "scopes": ["realtime"]}]
    assert "the scope" not in err


def test_keys_create_warns_of_an_unknown_scope(keys: Keyring) -> None:
    assert "the scope 'relatime' is none" in keys("create", "--id", "bob", "--scope", "relatime")[1]


def test_keys_create_accepts_a_relative_expiry(keys: Keyring, disk: KeysOnDisk) -> None:
    out, _ = keys("create", "--id", "bob", "--expires", "90d")
    now, days = time.time(), 86_400
    assert fault(disk, out, now + 89.9 * days) is None
    assert fault(disk, out, now + 90.1 * days) == "expired"


def test_keys_list_shows_everything_but_secrets(keys: Keyring, disk: KeysOnDisk) -> None:
    bound: dict[str, Any] = {"models": ["m"], "workers": [], "labels": {"a": "b"}}
    digests = {"id": "bob", "token_sha256": digest("x"), "scopes": []}
    disk.write(key(**bound), digests | {"expires": 1_893_456_000}, key("c", revoked=True))
    table, _ = keys("list")
    assert [line.split() for line in table.splitlines()] == [
        ["ID", "STATE", "SCOPES", "EXPIRES", "MODELS", "WORKERS", "LABELS", "SECRET"],
        ["alice", "valid", "realtime", "never", "m", "none", "a=b", "plain"],
        ["bob", "valid", "none", "2030-01-01T00:00:00Z", "any", "any", "hashed"],
        ["alice", "revoked", "realtime", "never", "any", "any", "plain"],
    ]
    lines, _ = keys("list", "--json")
    assert TOKEN not in table + lines
    assert digest("x") not in table + lines
    assert [json.loads(line)["state"] for line in lines.splitlines()] == [
        "valid",
        "valid",
        "revoked",
    ]


def test_keys_rotate_invalidates_the_old_secret_at_once(keys: Keyring, disk: KeysOnDisk) -> None:
    disk.write(key("other", "bob"), key(scopes=["eval"], labels={"a": "b"}))
    out, _ = keys("rotate", "alice")
    now = time.time()
    assert fault(disk, TOKEN, now) == "unknown"
    assert (fault(disk, out, now), fault(disk, "other", now)) == (None, None)
    assert written(disk)[1] == {
        "id": "alice",
        "token_sha256": digest(out),
        "scopes": ["eval"],
        "labels": {"a": "b"},
    }


def test_keys_rotate_with_grace_keeps_the_old_secret_for_a_while(
    keys: Keyring, disk: KeysOnDisk
) -> None:
    soon = time.time() + 60
    disk.write(key("gone", expires=1), key("soon", expires=soon), key(expires="2999-01-01"))
    out, _ = keys("rotate", "alice", "--grace", "1h")
    now = time.time()
    assert [fault(disk, token, now) for token in ("gone", "soon", TOKEN, out)] == [
        "unknown",
        None,
        None,
        None,
    ]
    assert [fault(disk, token, now + 61) for token in ("soon", TOKEN)] == ["expired", None]
    assert [fault(disk, token, now + 3_601) for token in (TOKEN, out)] == ["expired", None]


def test_keys_rotate_requires_a_new_expiry_for_an_expired_key(
    keys: Keyring, disk: KeysOnDisk
) -> None:
    disk.write(key(expires=1))
    assert "say how long with --expires" in keys("rotate", "alice", status=2)[1]
    out, _ = keys("rotate", "alice", "--expires", "1d")
    assert fault(disk, out, time.time()) is None


def test_keys_revoke_covers_all_keys_of_an_id_for_good(keys: Keyring, disk: KeysOnDisk) -> None:
    disk.write(key("a"), key("b"), key("c", "bob"))
    keys("revoke", "alice")
    assert [fault(disk, token, 0) for token in "abc"] == ["revoked", "revoked", None]
    assert "is revoked, and stays so" in keys("rotate", "alice", status=2)[1]
    assert "rotate that" in keys("create", "--id", "alice", status=2)[1]


@pytest.mark.parametrize("arguments", [["list"], ["rotate", "bob"], ["revoke", "bob"]])
def test_keys_commands_report_a_missing_file_or_id_in_one_line(
    keys: Keyring, disk: KeysOnDisk, arguments: list[str]
) -> None:
    [line] = keys(*arguments, status=2)[1].splitlines()
    assert "there is no such file; name one with --file or --config" in line
    disk.write(key())
    if arguments != ["list"]:
        [line] = keys(*arguments, status=2)[1].splitlines()
        assert line == "there is no key with the id 'bob'; `gateway keys list` has them"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"keys": [{"id": "a", "token": "b", "quota": 3}]}', "keys[0]: quota: unknown field"),
        (b'{"keys": [{"id": "a"}]}', "keys[0]: expected one of `token`, `token_sha256`"),
        (b'{"keys": [', "is not valid JSON, from line 1, column 11 on"),
    ],
)
@pytest.mark.parametrize("arguments", [["create", "--id", "b"], ["list"], ["revoke", "a"]])
def test_keys_commands_leave_an_invalid_file_unchanged(
    keys: Keyring, disk: KeysOnDisk, data: bytes, words: str, arguments: list[str]
) -> None:
    disk.put(data)
    [line] = keys(*arguments, status=2)[1].splitlines()
    assert line.startswith(f"{disk.path}: ")
    assert words in line
    assert disk.path.read_bytes() == data


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "--id", ""],
        ["create", "--id", "a\nb"],
        ["create", "--id", "a", "--expires", "never"],
        ["create", "--id", "a", "--expires", "9999999w"],
        ["create", "--id", "a", "--label", "team"],
        ["create", "--id", "a", "--label", "team=\x1b"],
        ["rotate", "a", "--grace", "soon"],
        ["rotate", "a", "--grace", "99999999w"],
        [],
    ],
)
def test_keys_commands_with_invalid_arguments_write_nothing(
    keys: Keyring, disk: KeysOnDisk, arguments: list[str]
) -> None:
    keys(*arguments, status=2)
    assert not disk.path.exists()


def test_keys_commands_leave_an_unwritable_file_unchanged(
    keys: Keyring, disk: KeysOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write(key())
    before = disk.path.read_bytes()
    monkeypatch.setattr(editing, "_give_to_owner", _no_room)
    assert "cannot be written: No space left" in keys("revoke", "alice", status=2)[1]
    monkeypatch.setattr(editing, "MAX_BYTES", 10)
    assert "would have more than 10 bytes" in keys("revoke", "alice", status=2)[1]
    assert disk.path.read_bytes() == before
    assert os.listdir(disk.path.parent) == ["keys.json"]  # noqa: PTH208  names alone


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_keys_create_reports_a_missing_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(
        capsys, "keys", "create", "--id", "a", "--file", str(tmp_path / "no" / "keys.json")
    )
    assert (code, len(err.splitlines())) == (2, 1)
    assert os.strerror(errno.ENOENT) in err


def test_keys_create_follows_a_symlink(keys: Keyring, disk: KeysOnDisk, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "keys.json"
    disk.path.symlink_to(target)
    keys("create", "--id", "a")
    assert disk.path.is_symlink()
    assert written(KeysOnDisk(target))[0]["id"] == "a"


@pytest.mark.usefixtures("empty_folder")
def test_keys_commands_find_the_file_in_the_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("gateway.yaml").write_text("plugins: [sessions, auth: {keys_file: mine.json}]\n")
    Path("wrong.yaml").write_text("plugins: [auth: {keysfile: mine.json}]\n")
    assert run(capsys, "keys", "create", "--id", "a", "--config", "gateway.yaml")[0] == 0
    monkeypatch.setenv("GATEWAY_CONFIG", "gateway.yaml")
    assert run(capsys, "keys", "create", "--id", "b")[0] == 0
    assert [one["id"] for one in written(KeysOnDisk(Path("mine.json")))] == ["a", "b"]
    code, _, err = run(capsys, "keys", "list", "--config", "wrong.yaml")
    assert code == 2
    assert 'unknown option; did you mean "keys_file"?' in err
    monkeypatch.delenv("GATEWAY_CONFIG")
    assert run(capsys, "keys", "create", "--id", "c")[0] == 0
    assert [one["id"] for one in written(KeysOnDisk(Path("keys.json")))] == ["c"]


def test_keys_create_reports_a_secret_it_could_not_print(disk: KeysOnDisk) -> None:
    command = [str(GATEWAY), "keys", "create", "--id", "a", "--file", str(disk.path)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "the secret is lost" in done.stderr.splitlines()[-1]


async def test_concurrent_keys_file_edits_lose_nothing(disk: KeysOnDisk) -> None:
    disk.write()

    def create(number: int) -> None:
        entry = Entry(id=str(number), token_sha256=f"{number:064x}")
        editing.edit(disk.path, lambda entries: editing.added(entries, entry))

    await asyncio.gather(*(asyncio.to_thread(create, number) for number in range(20)))
    assert sorted(int(one["id"]) for one in written(disk)) == [*range(20)]
