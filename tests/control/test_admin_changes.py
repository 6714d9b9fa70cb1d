"""What the admin interface changes of workers: drained, changed, and kept over a restart."""

import asyncio
import logging
import sqlite3
from pathlib import Path

import httpx
import pytest
from control.test_admin import CHAT, add, served_by
from msgspec.structs import replace
from support.plugins.recording_plugin import until

from gateway.config import StorageSettings
from gateway.config import Worker as Settings
from gateway.simulator import Simulator
from gateway.testing import (
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
)

NAMED = [Settings(url="http://h", worker_id=name) for name in ("a", "b")]


async def drain(live: Live, worker_id: str, what: str = "drain") -> httpx.Response:
    return await live.client.post(f"/admin/workers/{worker_id}/{what}")


async def patch(live: Live, which: str, **fields: object) -> httpx.Response:
    return await live.client.patch(f"/admin/workers/{which}", json=fields)


async def listed(live: Live) -> list[tuple[str, str, float]]:
    """Id, state and weight of each."""
    found = (await live.client.get("/admin/workers")).json()
    return [(worker["worker_id"], worker["state"], worker["weight"]) for worker in found]


# Draining


async def test_drained_worker_finishes_its_calls_and_gets_no_new_ones(
    gateway_for: GatewayFor,
) -> None:
    release = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await release.wait()
            await connection.write(answer_of(b'{"object": "late"}'))

    async with ScriptedWorker(script) as slow, Simulator() as other:
        workers = [Settings(url=slow.url, worker_id="slow")]
        live = await gateway_for(workers=workers)
        running = asyncio.create_task(live.client.post("/v1/chat/completions", json=CHAT))
        await until(lambda: len(slow.requests) == 1)
        await add(live, url=other.url, worker_id="other")
        drained = (await drain(live, "slow")).json()
        assert (drained["worker_id"], drained["state"], drained["healthy"]) == (
            "slow",
            "draining",
            False,
        )
        assert drained["active_requests"] == 1
        assert drained["conditions"]["drain"]["reason"] == "by an operator"
        assert {await served_by(live) for _ in range(4)} == {"other"}
        release.set()
        assert (await running).json() == {"object": "late"}
        await until(lambda: live.gateway.workers.all[0].in_flight == 0)
        assert (await live.client.get("/health/workers")).json()["healthy"] == 1
        assert (await drain(live, "slow", "undrain")).json()["state"] == "up"
        assert "slow" in {await served_by(live) for _ in range(4)}


async def test_drain_and_undrain_are_idempotent(gateway_for: GatewayFor) -> None:
    live = await gateway_for(workers=NAMED)
    since = (await drain(live, "a")).json()["conditions"]["drain"]["since"]
    assert (await drain(live, "a")).json()["conditions"]["drain"]["since"] == since
    for _ in range(2):
        assert (await drain(live, "a", "undrain")).json()["conditions"] == {}


async def test_undrain_clears_only_the_drain_condition(gateway_for: GatewayFor) -> None:
    live = await gateway_for(workers=NAMED)
    live.gateway.workers.all[0].mark("probe", "down", "it does not answer")
    await drain(live, "a")
    after = (await drain(live, "a", "undrain")).json()
    assert (after["state"], list(after["conditions"])) == ("down", ["probe"])


@pytest.mark.parametrize("what", ["drain", "undrain"])
async def test_admin_changes_of_an_unknown_worker_return_404(
    gateway_for: GatewayFor, what: str
) -> None:
    live = await gateway_for(workers=NAMED)
    refused = await drain(live, "c", what)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert (await patch(live, "c", weight=2)).status_code == 404
    assert (await live.client.get("/admin/workers/c")).status_code == 404


async def test_worker_ids_may_contain_slashes(gateway_for: GatewayFor) -> None:
    named = [Settings(url="http://h", worker_id=name) for name in ("rack/1", "rack/drain")]
    live = await gateway_for(workers=named)
    assert (await drain(live, "rack/1")).json()["state"] == "draining"
    assert (await patch(live, "rack/1", weight=2)).json()["weight"] == 2
    shown = await live.client.get("/admin/workers/rack%2Fdrain")
    assert shown.json()["worker_id"] == "rack/drain"
    assert (await live.client.delete("/admin/workers/rack%2Fdrain")).status_code == 200


# Changing


async def test_patch_changes_the_settings_of_a_worker_in_place(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as server:
        live = await gateway_for(workers=[Settings(url=server.url, worker_id="w")])
        [worker] = live.gateway.workers.all
        changes = {"weight": 2.5, "models": ["m", "n"], "headers": {"authorization": "Bearer k"}}
        changed = (await patch(live, "w", **changes)).json()
        assert (changed["weight"], changed["models"]) == (2.5, ["m", "n"])
        assert "Bearer k" not in str(changed)
        assert live.gateway.workers.all == (worker,)
        assert (await live.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert b"authorization: Bearer k\r\n" in server.requests[-1]
        again = (await patch(live, "w", model_name="x", models=[])).json()
        assert (again["weight"], again["models"]) == (2.5, ["x"]), "the rest stays"
        assert (await patch(live, "w", model_name=None)).json()["models"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"weight": 0}, "weight"),
        ({"weight": "2"}, "weight"),
        ({"models": [""]}, "models[0]"),
        ({"headers": {"host": "x"}}, "headers.host"),
        ({"url": "http://elsewhere"}, "url"),
        ({"worker_id": "c"}, "worker_id"),
        ({"wieght": 1}, "wieght"),
    ],
)
async def test_patch_rejects_an_invalid_field_by_name(
    gateway_for: GatewayFor, fields: dict[str, object], param: str
) -> None:
    live = await gateway_for(workers=NAMED)
    refused = await patch(live, "a", **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert await listed(live) == [("a", "up", 1), ("b", "up", 1)]


# Over a restart


async def test_persist_workers_keeps_admin_changes_over_a_restart(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    kept = StorageSettings(path=str(tmp_path / "gateway.db"), persist_workers=True)
    named = [*NAMED, Settings(url="http://h", worker_id="c")]
    first = await gateway_for(workers=named, storage=kept)
    await add(first, url="http://late:1", weight=3, models=["m"], headers={"x": "key"})
    await add(first, url="http://gone:1")
    await first.client.delete("/admin/workers/gone:1")
    await first.client.delete("/admin/workers/b")
    await patch(first, "a", weight=2)
    await patch(first, "a", models=["m"])
    await drain(first, "late:1")
    await drain(first, "c")
    await drain(first, "c", "undrain")
    expected = [("a", "up", 2), ("c", "up", 1), ("late:1", "draining", 3)]
    assert await listed(first) == expected
    second = await gateway_for(workers=named, storage=kept)
    assert await listed(second) == expected
    assert [worker.settings for worker in second.gateway.workers.all] == [
        worker.settings for worker in first.gateway.workers.all
    ]
    third = await gateway_for(workers=named, storage=replace(kept, persist_workers=False))
    assert await listed(third) == [("a", "up", 1), ("b", "up", 1), ("c", "up", 1)]
    assert (tmp_path / "gateway.db").stat().st_mode & 0o777 == 0o600


async def test_persisted_changes_apply_on_top_of_a_changed_file(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    kept = StorageSettings(path=str(tmp_path / "gateway.db"), persist_workers=True)
    first = await gateway_for(workers=NAMED, storage=kept)
    await patch(first, "a", weight=2)
    await add(first, url="http://late:1", weight=3)
    later = [
        Settings(url="http://other", worker_id="a", models=("m",), weight=7.0),
        Settings(url="http://late:1", weight=4.0),
    ]
    second = await gateway_for(workers=later, storage=kept)
    assert await listed(second) == [("a", "up", 2), ("late:1", "up", 4)]
    assert second.gateway.workers.all[0].url == "http://other"
    assert second.gateway.workers.all[0].models == frozenset(("m",))


async def test_admin_change_is_not_made_if_it_cannot_be_stored(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.db"
    live = await gateway_for(
        workers=NAMED, storage=StorageSettings(path=str(file), persist_workers=True)
    )
    file.unlink()
    file.mkdir()
    for answer in (
        await add(live, url="http://late:1"),
        await drain(live, "a"),
        await patch(live, "a", weight=2),
        await live.client.delete("/admin/workers/a"),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "storage_unavailable"
        assert await listed(live) == [("a", "up", 1), ("b", "up", 1)]


async def test_startup_skips_and_logs_an_unreadable_persisted_change(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "gateway.db"
    kept = StorageSettings(path=str(file), persist_workers=True)
    first = await gateway_for(workers=NAMED, storage=kept)
    await drain(first, "a")
    await drain(first, "b")
    with sqlite3.connect(file) as db:
        db.execute("UPDATE workers SET change = ? WHERE worker_id = 'a'", (b'{"drained": "?"}',))
    db.close()
    second = await gateway_for(workers=NAMED, storage=kept)
    assert await listed(second) == [("a", "up", 1), ("b", "draining", 1)]
    [said] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said.startswith("the kept change of worker a cannot be read and is left: ")


async def test_concurrent_admin_changes_run_one_at_a_time(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    kept = StorageSettings(path=str(tmp_path / "gateway.db"), persist_workers=True)
    live = await gateway_for(workers=NAMED, storage=kept)
    answers = await asyncio.gather(
        *(add(live, url="http://late:1", weight=n + 1) for n in range(4)),
        patch(live, "a", weight=2),
        patch(live, "a", models=["m"]),
        drain(live, "a"),
    )
    assert sorted(answer.status_code for answer in answers[:4]) == [200, 409, 409, 409]
    before = [worker.settings for worker in live.gateway.workers.all]
    assert (before[0].weight, before[0].models) == (2, ("m",))
    second = await gateway_for(workers=NAMED, storage=kept)
    assert [worker.settings for worker in second.gateway.workers.all] == before
    assert not second.gateway.workers.all[0].fit
