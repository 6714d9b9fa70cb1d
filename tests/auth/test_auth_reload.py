"""The file of keys while the gateway runs: what is taken from it, and what is kept."""

import asyncio
import itertools
import json
import logging
import os
import time
from pathlib import Path

import pytest
from gateway_plugins.auth import Auth, reading, watching
from gateway_plugins.auth.keys import Keys
from gateway_plugins.auth.watching import KeysFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve.test_cli import run
from support.gateways.reloadable import reloadable
from support.gateways.with_keys import TOKEN, KeysOnDisk, ask, code_of, key, keyed, look
from support.plugins.recording_plugin import until

from gateway import Gateway
from gateway.cluster.peers import Peers
from gateway.config import Config, Worker
from gateway.simulator import Simulator
from gateway.testing import NO_PROBES, GatewayFor, Live, entry, live

UNAVAILABLE = (503, "keys_unavailable")
REFUSED = (401, "invalid_api_key")


@pytest.fixture
def disk(tmp_path: Path) -> KeysOnDisk:
    return KeysOnDisk(tmp_path / "keys.json")


async def health(live: Live) -> dict[str, str]:
    found: dict[str, str] = (await live.client.get("/health")).json()
    return found


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [
        one.getMessage()
        for one in caplog.records
        if one.name == "gateway.auth" and one.levelno >= level
    ]


async def good(file: KeysFile) -> int:
    """Look, and find so many keys in it."""
    await file.look()
    assert file.trouble is None
    return len(file.keys or ())


async def test_keys_file_changes_apply_at_the_next_check(
    gateway_for: GatewayFor, disk: KeysOnDisk
) -> None:
    disk.write(key())
    live = await keyed(gateway_for, disk)
    assert (await ask(live)).status_code == 200
    disk.write(key("gw-other"))
    await look(live)
    assert code_of(await ask(live)) == REFUSED
    assert (await ask(live, "gw-other")).status_code == 200


async def test_revoked_key_is_rejected_after_the_next_check(
    gateway_for: GatewayFor, disk: KeysOnDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    _, token, _ = run(capsys, "keys", "create", "--id", "alice", "--file", str(disk.path))
    live = await gateway_for(entry("auth", keys_file=str(disk.path), check_interval=0.01))
    assert (await ask(live, token.strip())).status_code == 200
    run(capsys, "keys", "revoke", "alice", "--file", str(disk.path))
    file = live.plugin(Auth).file
    before = file.keys
    await until(lambda: file.keys is not before)
    assert code_of(await ask(live, token.strip())) == REFUSED


BROKEN = [
    b"",
    b'{"keys": [{"id": "alice", "tok',
    b"[]",
    b'{"keys": {}}',
    b'{"keys": [{"id": "alice"}]}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", [*BROKEN, None], ids=lambda data: str(data)[:20])
async def test_invalid_keys_file_keeps_the_old_keys_and_is_logged_once(
    gateway_for: GatewayFor,
    disk: KeysOnDisk,
    caplog: pytest.LogCaptureFixture,
    data: bytes | None,
) -> None:
    disk.write(key())
    live = await keyed(gateway_for, disk)
    disk.path.unlink() if data is None else disk.put(data)
    for _ in range(3):
        await look(live)
    assert (await ask(live)).status_code == 200
    assert code_of(await ask(live, "unknown")) == REFUSED
    assert (await health(live))["status"] == "degraded"
    assert "the keys before still hold" in (await health(live))["reason"]
    [line] = told(caplog)
    assert str(disk.path) in line
    disk.write(key())
    await look(live)
    assert await health(live) == {"status": "ok"}
    assert told(caplog) == [line]


@pytest.mark.parametrize("data", [*BROKEN[:2], None], ids=lambda data: str(data)[:20])
async def test_auth_answers_503_until_the_keys_file_is_first_valid(
    gateway_for: GatewayFor,
    disk: KeysOnDisk,
    caplog: pytest.LogCaptureFixture,
    data: bytes | None,
) -> None:
    if data is not None:
        disk.put(data)
    live = await keyed(gateway_for, disk)
    for token in (TOKEN, None):
        assert code_of(await ask(live, token)) == UNAVAILABLE
    assert code_of(await live.client.get("/health/workers")) == UNAVAILABLE
    assert (await health(live))["reason"].startswith("auth: the file of keys is not good")
    assert "every call gets a 503" in told(caplog, logging.ERROR)[0]
    disk.write(key())
    await look(live)
    assert (await ask(live)).status_code == 200


async def test_keys_file_without_keys_is_valid(gateway_for: GatewayFor, disk: KeysOnDisk) -> None:
    disk.write()
    live = await keyed(gateway_for, disk)
    assert code_of(await ask(live)) == REFUSED
    assert await health(live) == {"status": "ok"}


async def test_keys_file_changed_while_read_is_read_again(
    disk: KeysOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write(key())
    file = KeysFile(disk.path, 1.0, set)
    ticks = itertools.count()
    with monkeypatch.context() as patched:
        patched.setattr(
            reading.Stamp, "of", lambda found: reading.Stamp(1, 1, found.st_size, next(ticks), 1)
        )
        await file.look()
    assert file.keys is None
    assert file.trouble == f"{disk.path}: is being written to"
    assert await good(file) == 1


async def test_unchanged_keys_file_is_not_read_again(
    disk: KeysOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SETTLE_NS", -1e18)
    disk.write(key())
    file = KeysFile(disk.path, 1.0, set)
    await file.look()
    before = file.keys
    monkeypatch.setattr(watching, "read", None)  # to call it would be told as a trouble
    await file.look()
    assert file.keys is before is not None
    assert file.trouble is None


async def test_keys_file_detects_two_writes_in_one_clock_tick(
    disk: KeysOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = time.time_ns()
    monkeypatch.setattr(
        reading.Stamp, "of", lambda found: reading.Stamp(1, 1, found.st_size, tick, tick)
    )
    disk.write(key("gw-a"))
    file = KeysFile(disk.path, 1.0, set)
    await file.look()
    disk.write(key("gw-b"))
    await file.look()
    assert file.keys is not None
    assert file.keys.find(b"gw-b") is not None


async def test_keys_file_that_returns_unchanged_is_valid_again(
    disk: KeysOnDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SETTLE_NS", -1e18)
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.mkdir()
    KeysOnDisk(folder / "keys.json").write(key())
    file = KeysFile(folder / "keys.json", 1.0, set)
    assert await good(file) == 1
    folder.rename(away)
    await file.look()
    assert file.trouble is not None
    away.rename(folder)
    assert await good(file) == 1


async def test_keys_read_from_a_replaced_path_are_discarded(disk: KeysOnDisk) -> None:
    disk.write(key())
    file = KeysFile(disk.path, 1.0, set)
    looking = asyncio.create_task(file.look())
    await asyncio.sleep(0)
    file.change(disk.path.with_name("other.json"), 1.0)
    await looking
    assert file.keys is None


async def test_keys_file_rejects_pipes_devices_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), Path("a\0b")):
        file = KeysFile(path, 1.0, set)
        await file.look()
        assert file.keys is None
        assert file.trouble is not None


async def test_keys_file_rejects_an_oversized_file(
    disk: KeysOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    disk.put(b'{"keys": []}' + b" " * 100)
    file = KeysFile(disk.path, 1.0, set)
    await file.look()
    assert file.trouble == f"{disk.path}: has more than 100 bytes"


async def test_keys_file_recovers_from_an_unexpected_error(
    disk: KeysOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write(key())
    file = KeysFile(disk.path, 1.0, set)
    with monkeypatch.context() as patched:
        patched.setattr(watching, "Keys", None)
        await file.look()
    assert file.trouble == f"{disk.path}: TypeError"
    await file.look()
    assert file.trouble is None


async def test_auth_warns_once_of_file_modes_and_unknown_scopes(
    gateway_for: GatewayFor, disk: KeysOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.write(key(scopes=["realtime", "sesions", "sessions", "admin"]))
    disk.path.chmod(0o644)
    live = await keyed(gateway_for, disk)
    disk.write(key(scopes=["sesions", "eval"]))
    disk.path.chmod(0o640)
    await look(live)
    assert told(caplog) == [
        f"{disk.path} can be read by others than its owner: chmod 600",
        f"{disk.path}: nothing asks for the scope 'sesions'",
    ]


GOOD = json.dumps({"keys": [key(), key("b", expires="2999-01-01", labels={"a": "b"})]}).encode()


@given(st.integers(0, len(GOOD) - 1))
@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_truncated_keys_file_keeps_the_old_keys(disk: KeysOnDisk, size: int) -> None:
    disk.put(GOOD)
    file = KeysFile(disk.path, 1.0, set)
    await file.look()
    before = file.keys
    disk.put(GOOD[:size])
    await file.look()
    assert file.keys is before is not None
    assert file.trouble is not None
    disk.put(GOOD)
    assert await good(file) == 2


async def test_auth_reload_keeps_the_old_keys_until_the_new_file_is_valid(
    disk: KeysOnDisk, tmp_path: Path
) -> None:
    other = KeysOnDisk(tmp_path / "other.json")
    disk.write(key(scopes=["admin", "realtime"]))
    options = {"keys_file": str(disk.path), "check_interval": 3600.0}
    async with reloadable(tmp_path / "gateway.yaml", ("auth", options)) as running:
        running.client.headers["api-key"] = TOKEN
        await running.changed(("auth", options | {"keys_file": str(other.path)}))
        file = running.live.plugin(Auth).file
        await until(lambda: file.trouble is not None)
        other.write(key("gw-other", scopes=["admin"]))
        await running.changed(
            ("auth", options | {"keys_file": str(other.path), "check_interval": 60.0})
        )
        await until(lambda: file.trouble is None)
        assert code_of(await running.reload()) == REFUSED
        running.client.headers["api-key"] = "gw-other"
        assert (await running.reload()).status_code == 200


async def test_replacement_process_takes_the_keys_of_the_others_if_the_file_is_broken(
    disk: KeysOnDisk, simulator: Simulator, tmp_path: Path
) -> None:
    """A process that starts anew while the file is broken, beside one that read it before."""
    disk.write(key(), key("gw-gone", "bob", revoked=True), key("gw-small", "carol", models=["no"]))
    config = Config(
        workers=(Worker(url=simulator.url),),
        plugins=(entry("auth", keys_file=str(disk.path), check_interval=3600.0),),
        probes=NO_PROBES,
    )
    async with live(Gateway(config, peers=Peers(0, 2, tmp_path))):
        disk.put(b'{"keys": [{"id": "ali')
        async with live(Gateway(config, peers=Peers(1, 2, tmp_path))) as replacement:
            assert (await ask(replacement)).status_code == 200
            assert code_of(await ask(replacement, "gw-gone")) == REFUSED
            assert code_of(await ask(replacement, "gw-small")) == (403, "model_not_allowed")
            assert code_of(await ask(replacement, "gw-other")) == REFUSED
            health = (await replacement.client.get("/health")).json()
            assert "the keys before still hold" in health["reason"]
            disk.write(key("gw-new"))
            await look(replacement)
            assert code_of(await ask(replacement)) == REFUSED


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.text("abcé", min_size=1, max_size=5)},
            optional={
                "scopes": st.lists(st.sampled_from(["realtime", "admin"]), max_size=2),
                "expires": st.floats(0, 1e10) | st.just("2030-01-01"),
                "models": st.lists(st.sampled_from(["m", "n"]), max_size=2),
                "workers": st.lists(st.sampled_from(["w"]), max_size=1),
                "labels": st.dictionaries(st.sampled_from("ab"), st.sampled_from("cd")),
                "revoked": st.booleans(),
            },
        ),
        max_size=4,
    )
)
def test_encoded_keys_are_the_same_keys_without_their_tokens(
    entries: list[dict[str, object]],
) -> None:
    named = [{**one, "token": f"gw-canary-{place}"} for place, one in enumerate(entries)]
    keys = Keys(json.dumps({"keys": named}).encode())
    encoded = keys.encode()
    assert b"canary" not in encoded
    again = Keys(encoded)
    for one in named:
        token = str(one["token"]).encode()
        assert again.find(token) == keys.find(token) is not None
