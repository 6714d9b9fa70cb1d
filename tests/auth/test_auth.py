"""Who calls: where a key may stand, what becomes of the wrong ones, and where a key never shows."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_plugins.auth import Auth
from gateway_plugins.auth.tokens import token_of
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.with_keys import BODY, CHAT, TOKEN, KeysOnDisk, ask, code_of, key, keyed

from gateway import Call, Principal, hookimpl
from gateway.config import StorageSettings
from gateway.testing import GatewayFor, ScriptedWorker, answer_of, entry, make_call

REFUSED = (401, "invalid_api_key")


class Witness:
    def __init__(self) -> None:
        self.principals: list[Principal | None] = []

    @hookimpl
    async def admit(self, call: Call) -> None:
        self.principals.append(call.principal)


@pytest.fixture
def disk(tmp_path: Path) -> KeysOnDisk:
    return KeysOnDisk(tmp_path / "keys.json")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer  {TOKEN}"},
        {"x-api-key": TOKEN},
        {"api-key": TOKEN},
        {"authorization": "Basic YTpi", "api-key": TOKEN},
        {"authorization": "Bearer", "x-api-key": "", "api-key": TOKEN},
        {"authorization": f"Bearer {TOKEN}", "x-api-key": "unused"},
        {"x-api-key": TOKEN, "api-key": "unused"},
    ],
)
@pytest.mark.parametrize("hashed", [True, False])
async def test_auth_reads_a_key_from_any_of_its_headers(
    gateway_for: GatewayFor, disk: KeysOnDisk, headers: dict[str, str], hashed: bool
) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    disk.write({"id": "alice", "token_sha256": digest} if hashed else key())
    live = await keyed(gateway_for, disk, Witness)
    assert (await live.client.post(CHAT, json=BODY, headers=headers)).status_code == 200
    assert live.plugin(Witness).principals == [Principal("alice")]


async def test_auth_builds_the_principal_from_the_keys_file(
    gateway_for: GatewayFor, disk: KeysOnDisk
) -> None:
    bound: dict[str, Any] = {"models": ["sim", "m"], "workers": ["w"], "labels": {"team": "rl"}}
    disk.write(key(scopes=["eval", "sessions"], **bound), key("other", "bob", models=["sim"]))
    live = await keyed(gateway_for, disk, Witness)
    assert (await ask(live, "other")).status_code == 200
    assert code_of(await ask(live)) == (503, "no_worker")
    bob, alice = live.plugin(Witness).principals
    assert bob == Principal("bob", models=frozenset({"sim"}))
    assert alice == Principal(
        "alice",
        frozenset({"eval", "sessions"}),
        frozenset({"sim", "m"}),
        frozenset({"w"}),
        {"team": "rl"},
    )


async def test_auth_rejects_all_invalid_keys_with_one_message(
    gateway_for: GatewayFor, disk: KeysOnDisk
) -> None:
    disk.write(
        key("over", expires=1_700_000_000),
        key("gone", revoked=True),
        key("late", expires="2999-01-01"),
    )
    live = await keyed(gateway_for, disk, "metrics")
    answers = [await ask(live, token) for token in (None, "unknown", "over", "gone")]
    assert [code_of(answer) for answer in answers] == [REFUSED] * 4
    assert len({answer.text for answer in answers}) == 1
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert (await ask(live, "late")).status_code == 200
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for sample in live.plugin(Auth).samples()
    }
    assert told == {
        ("gateway_auth_failures_total", "missing"): 1,
        ("gateway_auth_failures_total", "unknown"): 1,
        ("gateway_auth_failures_total", "expired"): 1,
        ("gateway_auth_failures_total", "revoked"): 1,
        ("gateway_auth_keys",): 3,
        ("gateway_auth_file_broken",): 0,
    }


async def test_auth_protects_control_routes_with_the_same_keys(
    gateway_for: GatewayFor, disk: KeysOnDisk
) -> None:
    disk.write(key(), key("m", scopes=["monitor"]))
    live = await keyed(gateway_for, disk)

    async def workers(token: str) -> httpx.Response:
        return await live.client.get("/health/workers", headers={"x-api-key": token})

    assert code_of(await workers("unknown")) == REFUSED
    assert code_of(await workers(TOKEN)) == (403, "missing_scope")
    assert (await workers("m")).status_code == 200
    assert code_of(await ask(live, "m")) == (403, "missing_scope")


async def test_keys_may_share_an_id(gateway_for: GatewayFor, disk: KeysOnDisk) -> None:
    disk.write(key("old"), key("new"))
    live = await keyed(gateway_for, disk, Witness)
    assert [(await ask(live, token)).status_code for token in ("old", "new")] == [200, 200]
    assert live.plugin(Witness).principals == [Principal("alice")] * 2


async def test_auth_leaves_unknown_callers_to_the_next_plugin(
    gateway_for: GatewayFor, disk: KeysOnDisk
) -> None:
    disk.write()
    live = await keyed(gateway_for, disk, Stranger, Witness)
    assert (await ask(live)).status_code == 200
    assert live.plugin(Witness).principals == [Principal("stranger")]


class Stranger:
    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return Principal("stranger")


async def test_auth_leaks_no_key_to_workers_logs_or_storage(
    gateway_for: GatewayFor, disk: KeysOnDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    disk.write(key())
    log, db = tmp_path / "log", tmp_path / "gateway.db"
    watching = ("sessions", "trace_capture", entry("access_log", path=str(log)))
    async with ScriptedWorker(answer_of(b'{"choices":[]}')) as worker:
        live = await keyed(
            gateway_for,
            disk,
            *watching,
            workers=(worker.url,),
            storage=StorageSettings(path=str(db)),
        )
        bad = f"{TOKEN}-bad"
        answers = [await ask(live, token, **{"x-api-key": TOKEN}) for token in (TOKEN, bad)]
        answers.append(await live.client.get(f"/nowhere?key={1}", headers={"api-key": bad}))
        await live.gateway.storage.flush()
        told = [await live.client.get("/health"), *answers]
        assert [answer.status_code for answer in answers] == [200, 401, 404]
        assert len(worker.requests) == 1
        files = [log, *(file for file in (db, Path(f"{db}-wal")) if file.exists())]
        shown = [*worker.requests, *(file.read_bytes() for file in files)]
    shown += [caplog.text.encode(), *(answer.content for answer in told)]
    assert not any(TOKEN.encode() in one for one in shown)
    assert not any(TOKEN in str(answer.headers) for answer in told)


Lines = Sequence[tuple[bytes, bytes]]

names = st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"host"]) | st.binary()
values = (
    st.sampled_from([b"Bearer", b"Bearer ", b"bearer a", b"Basic a", b" a ", b""]) | st.binary()
)


@given(st.lists(st.tuples(names, values)))
def test_token_of_returns_the_first_token_of_any_headers(headers: Lines) -> None:
    bearers = [
        value[7:].strip()
        for name, value in headers
        if name == b"authorization" and value[:7].lower() == b"bearer "
    ]
    others = [
        value.strip()
        for wanted in (b"x-api-key", b"api-key")
        for name, value in headers
        if name == wanted
    ]
    assert token_of(headers) == next((one for one in (*bearers, *others) if one), None)


def test_auth_rejects_calls_before_startup(tmp_path: Path) -> None:
    auth = Auth(Auth.Config(keys_file=str(tmp_path / "keys.json")))
    with pytest.raises(Exception, match="cannot read its keys"):
        auth.authenticate(make_call())
