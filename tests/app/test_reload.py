"""The configuration file is read again: what changes, and what is kept."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.callers.raw_client import RawClient, head_of
from support.gateways.reloadable import Named, Other, Reloadable, Tabled, Yielding, reloadable
from support.plugins.hook_probes import Keys
from support.plugins.recording_plugin import until

from gateway import Gateway
from gateway.config import Config
from gateway.simulator import Simulator
from gateway.testing import (
    DONE,
    GatewayFor,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    sse,
)

MODELS = "/v1/models"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


EVENT = sse({"choices": []})
REST = chunk(DONE) + b"0\r\n\r\n"


async def begin(connection: ScriptedConnection) -> None:
    """Begin every answer; a test writes the REST."""
    while True:
        await connection.read_request()
        await connection.write(HEAD + chunk(EVENT))


@pytest.fixture
async def worker() -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker(begin) as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


@pytest.fixture(autouse=True)
def log_of_plugins(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "reloadable")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Who was entered, left and renamed so far."""
    return [one.getMessage() for one in caplog.records if one.name == "reloadable"]


async def by_whom(running: Reloadable) -> str | None:
    """The plugin that a call goes by now."""
    found: str | None = (await running.client.get(MODELS)).headers.get("x-named")
    return found


async def a_stream(running: Reloadable, client: RawClient) -> bytes | None:
    """Ask for a stream, and give the plugin that it goes by once its head is there."""
    await client.send(head_of("GET", "/v1/stream", []))
    return (await client.head()).value(b"x-named")


async def test_reload_adds_removes_and_changes_workers_while_calls_run(
    file: Path, worker: ScriptedWorker
) -> None:
    other = {"url": "http://127.0.0.1:9", "worker_id": "b"}
    async with (
        ScriptedWorker(answer_of(b"{}")) as new,
        reloadable(file, workers=[{"url": worker.url, "worker_id": "a"}, other]) as running,
        RawClient(*running.live.server.address) as client,
    ):
        old = running.live.gateway.workers.find("b")
        assert old is not None
        old.mark("test", "down", "so that the stream goes to the other")
        await a_stream(running, client)
        workers = [{**other, "weight": 2}, {"url": new.url, "worker_id": "c"}]
        changed = (await running.changed(workers=workers))["changed"]
        assert changed["workers"] == {
            "added": ["c"],
            "removed": ["a"],
            "changed": ["b"],
            "moved": False,
        }
        assert running.live.gateway.workers.find("b") is old
        assert (old.weight, old.fit) == (2, False)
        assert (await running.client.get(MODELS)).json() == {}
        await worker.connections[0].write(REST)
        assert await client.reader.readexactly(len(chunk(EVENT) + REST)) == chunk(EVENT) + REST


@pytest.mark.parametrize("now", ["changed", "removed"])
async def test_reload_leaves_an_old_plugin_after_its_last_call(
    file: Path, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture, now: str
) -> None:
    async with (
        reloadable(file, Named, workers=[worker.url]) as running,
        RawClient(*running.live.server.address) as client,
        RawClient(*running.live.server.address) as later,
    ):
        assert await a_stream(running, client) == b"one"
        plugins = [(Named, {"name": "two"})] if now == "changed" else []
        changed = (await running.changed(*plugins, workers=[worker.url]))["changed"]
        assert changed["plugins"][now] == ["Named"]
        entered = ["one entered", "two entered"] if plugins else ["one entered"]
        assert await a_stream(running, later) == (b"two" if plugins else None)
        assert said(caplog) == entered
        await worker.connections[0].write(REST)
        await until(lambda: said(caplog) == [*entered, "one left"])
    assert said(caplog) == [*entered, "one left", *(["two left"] if plugins else [])]


async def test_reload_leaves_an_old_plugin_after_its_last_control_request(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        reloadable(file, Named) as running,
        RawClient(*running.live.server.address) as client,
    ):
        await client.send(head_of("POST", "/admin/workers", [(b"content-length", b"2")]) + b"{")
        await until(lambda: any(running.live.gateway.in_flight))
        await running.changed()
        await running.client.get("/health")
        assert said(caplog) == ["one entered"]
        await client.send(b"}")
        await until(lambda: said(caplog) == ["one entered", "one left"])


async def test_reload_adds_and_removes_the_routes_of_a_plugin(file: Path) -> None:
    async with reloadable(file) as running:
        assert (await running.client.get("/one")).status_code == 404
        await running.changed(Named)
        assert (await running.client.get("/one")).text == "one"
        await running.changed((Named, {"name": "two"}))
        assert (await running.client.get("/one")).status_code == 404
        assert (await running.client.get("/two")).text == "two"
        await running.changed()
        assert (await running.client.get("/two")).status_code == 404


async def test_reload_keeps_a_plugin_with_unchanged_options(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloadable(file, Named) as running:
        kept = running.live.plugin(Named)
        changed = await running.changed((Other, {"name": "other"}), (Named, {}), model="m")
        assert changed["changed"] == {
            "workers": {"added": [], "removed": [], "changed": [], "moved": False},
            "plugins": {"added": ["Other"], "removed": [], "changed": [], "moved": False},
            "settings": ["model"],
        }
        assert [one.object for one in running.live.gateway.plugins.loaded][1] is kept
        assert (await running.client.get("/one")).text == "one"
        moved = await running.changed(Named, (Other, {"name": "other"}), model="m")
        assert moved["changed"]["plugins"]["moved"]
    assert said(caplog) == ["one entered", "other entered", "other left", "one left"]


async def test_reload_reconfigures_a_plugin_in_place_if_it_supports_that(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloadable(file, Yielding) as running:
        kept = running.live.plugin(Yielding)
        await by_whom(running)
        await running.changed((Yielding, {"name": "two"}))
        assert await by_whom(running) == "two"
        assert (running.live.plugin(Yielding), kept.calls) == (kept, 2)
        await running.changed((Yielding, {"name": "two"}))
        assert said(caplog) == ["one entered", "one is two now"]


async def test_reload_creates_the_tables_of_a_new_plugin(file: Path, tmp_path: Path) -> None:
    settings = {"storage": {"path": str(tmp_path / "gateway.db")}}
    async with reloadable(file, **settings) as running:
        storage = running.live.gateway.storage
        assert (await running.changed(Tabled, **settings))["changed"]["plugins"]["added"]
        await storage.write(lambda db: db.execute("INSERT INTO tabled VALUES ('kept')"))
        await running.changed("trace_capture", **settings)
        assert (await running.client.get("/sessions")).json() == []
        await running.changed("trace_capture", Tabled, **settings)
        rows = await storage.read(lambda db: list(db.select("SELECT * FROM tabled")))
        assert rows == [("kept",)]


async def test_unchanged_routes_authenticate_with_the_plugins_of_the_reload(file: Path) -> None:
    async with reloadable(file) as running:
        assert (await running.client.get("/admin/workers")).status_code == 200
        await running.changed((Keys, {"key": "k"}))
        assert (await running.client.get("/admin/workers")).status_code == 401
        assert (await running.reload()).status_code == 401
        known = {"authorization": "k"}
        assert (await running.client.get("/admin/workers", headers=known)).status_code == 200


async def test_reload_applies_settings_to_the_next_call(file: Path, simulator: Simulator) -> None:
    workers = [simulator.url]
    async with reloadable(file, workers=workers) as running:
        assert (await running.client.post("/tokenize", json={"prompt": "a"})).status_code == 200
        changed = await running.changed(
            workers=workers,
            server_limits={"max_body_bytes": 10, "max_header_bytes": 1_000},
            timeouts={"drain": 7, "keepalive": 8},
            extra_paths=["/ping"],
        )
        assert changed["changed"]["settings"] == ["timeouts", "server_limits", "extra_paths"]
        assert (await running.client.post("/tokenize", json={"prompt": "a"})).status_code == 404
        assert (await running.client.get("/ping")).status_code == 200
        large = await running.client.post("/v1/completions", json={"prompt": "more"})
        assert large.json()["error"]["code"] == "body_too_large"
        header = await running.client.get(MODELS, headers={"x-long": "x" * 2_000})
        assert header.status_code == 400
        assert running.live.server.config.timeout_keep_alive == 8


async def test_reload_lists_and_skips_settings_that_need_a_restart(file: Path) -> None:
    async with reloadable(file) as running:
        before = running.live.gateway.config
        fixed = {"port": 1, "storage": {"commit_timeout": 1, "persist_workers": True}}
        done = await running.changed(**fixed, model="m")
        assert sorted(done["needs_restart"]) == ["port", "storage"]
        now = running.live.gateway.config
        assert (now.port, now.storage, now.model) == (before.port, before.storage, "m")
        assert (await running.changed(**fixed, model="m"))["needs_restart"] == done["needs_restart"]


async def test_reload_finishes_if_its_caller_disconnects(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloadable(file) as running:
        running.write(Named)
        async with RawClient(*running.live.server.address) as client:
            await client.send(head_of("POST", "/admin/reload", [(b"content-length", b"0")]))
            await until(lambda: any(running.live.gateway.in_flight))
        await until(lambda: said(caplog) == ["one entered"])
        await until(lambda: bool(running.live.gateway.plugins.loaded))


async def test_concurrent_reloads_run_one_at_a_time(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reloadable(file) as running:
        running.write(Named)
        answers = await asyncio.gather(*(running.reload() for _ in range(8)))
        added = [answer.json()["changed"]["plugins"]["added"] for answer in answers]
        assert sorted(added) == [[]] * 7 + [["Named"]]
    assert said(caplog) == ["one entered", "one left"]


async def test_shutdown_leaves_old_plugins_that_wait_for_a_call(
    file: Path, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    async with (
        reloadable(file, Named, workers=[worker.url]) as running,
        RawClient(*running.live.server.address) as client,
    ):
        await a_stream(running, client)
        await running.changed((Named, {"name": "two"}), workers=[worker.url])
    assert sorted(said(caplog)[2:]) == ["one left", "two left"]
    lasting = {task for task in asyncio.all_tasks() - before if "lifespan" in task.get_name()}
    assert not lasting


async def test_reload_is_rejected_without_a_config_file(gateway_for: GatewayFor) -> None:
    live = await gateway_for()
    answer = await live.client.post("/admin/reload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "nothing_to_reload")


async def test_reload_is_rejected_while_the_gateway_drains(file: Path) -> None:
    async with reloadable(file) as running:
        await running.live.gateway.drain(0)
        answer: httpx.Response = await running.reload()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


async def test_shutdown_leaves_old_plugins_despite_requests_in_flight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor does it take a server."""
    async with Gateway(Config(plugins=(entry(Named),)), source=Config) as gateway:
        gateway.in_flight[-1].add("a request that never ends")
        assert (await gateway.reloader.reload()).changed.plugins.removed == ["Named"]
    assert said(caplog) == ["one entered", "one left"]


async def test_sighups_in_quick_succession_cause_one_reload(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway")

    def reloads() -> int:
        return sum(one.getMessage().startswith("reloaded: ") for one in caplog.records)

    async with reloadable(file) as running:
        reloader = running.live.gateway.reloader
        for _ in range(5):
            reloader.on_sighup()
        await until(lambda: reloads() == 1)
        reloader.on_sighup()
        await until(lambda: reloads() == 2)
