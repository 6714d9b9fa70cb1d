"""The weights of a fleet change under running calls: steps, failures, versions, who waits."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from gateway_plugins.weights.sync.engine_commands import UpdateRequest
from gateway_plugins.weights.sync.plugin import WeightSync
from support.gateways.capturing import CAPTURE
from support.paths import DOCS
from support.plugins.recording_plugin import until

from gateway import Trace, WeightVersions
from gateway.config import Config, Probes, StorageSettings, Worker
from gateway.control.routes import ControlRoute
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import MESSAGES, GatewayFor, Live, ScriptedConnection, ScriptedWorker, entry
from gateway.testing import live as serve

DEVELOPMENT = SimulatorConfig(development=True, itl=0.002)
WEIGHTS = {"weights_path": "b"}

Fleet = tuple[Simulator, Simulator]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with Simulator(DEVELOPMENT) as one, Simulator(DEVELOPMENT) as other:
        yield one, other


def body(**fields: object) -> dict[str, object]:
    messages = [dict(one) for one in MESSAGES]
    return {"messages": messages, "temperature": 0, "max_tokens": 8, "ignore_eos": True, **fields}


async def syncing(gateway_for: GatewayFor, *urls: str, **options: Any) -> Live:
    """Asks for versions only when something changes, so that no test waits for it by accident."""
    settings = {key: options.pop(key) for key in ("storage", "probes") if key in options}
    workers = [Worker(url=url, worker_id=f"w{at}") for at, url in enumerate(urls)]
    sync = entry("weight_sync", **{"check_interval": 60.0, **options})
    return await gateway_for("sessions", sync, CAPTURE, workers=workers, **settings)


async def know_versions(live: Live) -> None:
    """Wait until each worker has told its version: a call that began before has none to record."""
    await until(lambda: all(worker.weight_version for worker in live.gateway.workers.all))


async def update(live: Live, version: str = "step-2", **fields: object) -> httpx.Response:
    return await live.client.post(
        "/admin/weights", json={"version": version, "kwargs": WEIGHTS, **fields}
    )


async def say(live: Live, **fields: object) -> str:
    answer = await live.client.post("/v1/chat/completions", json=body(**fields))
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


async def info(live: Live) -> Any:
    return (await live.client.get("/admin/weights")).json()


async def states(live: Live) -> dict[str, str]:
    return {name: worker["state"] for name, worker in (await info(live))["workers"].items()}


async def trace_of(live: Live, session: str) -> Trace:
    answer = await live.client.get(f"/sessions/{session}/traces")
    [trace] = msgspec.json.decode(answer.content, type=list[Trace])
    return trace


async def traced(live: Live, session: str, **fields: object) -> Trace:
    path = f"/sessions/{session}/v1/chat/completions"
    assert (await live.client.post(path, json=body(**fields))).status_code == 200
    return await trace_of(live, session)


def in_flight(live: Live) -> int:
    return sum(worker.in_flight for worker in live.gateway.workers.all)


MANUAL = (DOCS / "weights.md").read_text()


def first_column(title: str) -> list[str]:
    [section] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]


def test_weights_manual_lists_each_option_and_each_field_of_an_order() -> None:
    assert first_column("Options") == list(WeightSync.Config.__struct_fields__)
    fields = list(UpdateRequest.__struct_fields__)
    assert first_column("Update the weights")[: len(fields)] == fields


async def test_weights_manual_lists_each_endpoint(gateway_for: GatewayFor) -> None:
    live = await gateway_for("weight_sync")
    added = live.plugin(WeightSync).routes(live.gateway)
    there = {
        f"{method} {one.path}"
        for one in added
        if isinstance(one, ControlRoute)
        for method in one.methods
    }
    assert set(first_column("Endpoints")) == there


# updates


@pytest.mark.parametrize("mode", ["wait", "keep", "abort"])
async def test_weight_update_changes_the_responses_and_the_trace_version(
    gateway_for: GatewayFor, fleet: Fleet, mode: str
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet))
    before = await say(live)
    answer = await update(live, mode=mode)
    assert answer.status_code == 200
    report = answer.json()
    assert report.pop("seconds") >= 0
    assert report == {"version": "step-2", "ok": ["w0", "w1"], "failed": {}}
    after = {await say(live) for _ in range(4)}
    assert len(after) == 1
    assert before not in after
    await live.client.post("/admin/weight_version", json={"weight_version": 7})
    trace = await traced(live, "a")
    assert trace.weight_version == "step-2"
    assert trace.weight_versions == WeightVersions(worker="step-2", admin=7)
    told = await info(live)
    assert (told["state"], told["version"], told["epoch"]) == ("ready", "step-2", 1)
    assert told["workers"]["w1"] == {"version": "step-2", "epoch": 1, "state": "up"}


async def test_weight_update_accepts_weights_by_transfer(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet))
    before = await say(live)
    answer = await update(live, update_info={"names": ["x"]})
    assert answer.json()["ok"] == ["w0", "w1"]
    assert await say(live) != before


async def test_weight_update_lets_calls_end_before_or_begin_after_it(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet))
    await know_versions(live)
    texts = {"default": await say(live, max_tokens=100)}
    running = [asyncio.create_task(traced(live, f"a{i}", max_tokens=100)) for i in range(4)]
    await until(lambda: in_flight(live) == 4)
    changing = asyncio.create_task(update(live))
    gate = live.plugin(WeightSync).gate
    await until(lambda: gate.closed)
    held = [asyncio.create_task(traced(live, f"b{i}", max_tokens=100)) for i in range(4)]
    await until(lambda: gate.held == 4)
    assert (await info(live))["held"] == 4
    assert (await changing).json()["ok"] == ["w0", "w1"]
    texts["step-2"] = await say(live, max_tokens=100)
    for tasks, version in ((running, "default"), (held, "step-2")):
        for task in tasks:
            trace = await task
            assert trace.weight_version == version
            assert trace.weight_versions.worker_end is None
            assert trace.response_message["content"] == texts[version]
    assert in_flight(live) == gate.held == 0


async def test_weight_update_in_keep_mode_records_both_versions_of_a_frozen_call(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, fleet[0].url)
    await know_versions(live)
    running = asyncio.create_task(traced(live, "a", max_tokens=400))
    await until(lambda: in_flight(live) == 1)
    assert (await update(live, mode="keep")).status_code == 200
    trace = await running
    assert trace.weight_version == trace.weight_versions.worker == "default"
    assert trace.weight_versions.worker_end == "step-2"
    assert trace.verdict == "COMPLETE"


async def test_weight_update_in_abort_mode_ends_running_calls(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, fleet[0].url)
    await know_versions(live)
    running = asyncio.create_task(traced(live, "a", max_tokens=1500))
    await until(lambda: live.gateway.workers.all[0].in_flight == 1)
    async with httpx.AsyncClient(base_url=fleet[0].url) as engine:
        while "running" not in (await engine.get("/metrics")).text:
            pass
    assert (await update(live, mode="abort")).status_code == 200
    trace = await running
    assert trace.finish_reason in ("abort", "length")
    assert trace.weight_versions.worker_end is None


async def test_weight_pause_sends_comments_to_a_waiting_stream(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, fleet[0].url, comment_interval=0.01)
    await live.client.post("/admin/weights/pause", json={})
    async with live.client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        lines = answer.aiter_lines()
        assert [await anext(lines) for _ in range(4)] == [": waiting", ""] * 2
        await live.client.post("/admin/weights/resume")
        rest = [line async for line in lines]
    assert rest[-2:] == ["data: [DONE]", ""]


async def test_weight_pause_holds_calls_and_rejects_updates_until_resume(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet))
    paused = await live.client.post("/admin/weights/pause", json={"mode": "keep"})
    assert paused.json() == {"state": "paused", "ok": ["w0", "w1"], "failed": {}}
    held = asyncio.create_task(say(live))
    await until(lambda: live.plugin(WeightSync).gate.held == 1)
    for path in ("/admin/weights", "/admin/weights/pause"):
        refused = await live.client.post(path, json={"version": "x"} if path[-1] == "s" else {})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "weights_busy")
    resumed = await live.client.post("/admin/weights/resume")
    assert resumed.json() == {"state": "ready", "ok": ["w0", "w1"], "failed": {}}
    assert await held
    again = await live.client.post("/admin/weights/resume")
    assert (again.status_code, again.json()["error"]["code"]) == (400, "not_paused")


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"version": ""},
        {"version": 3},
        {"version": "x", "mode": "hard"},
        {"version": "x", "method": "__init__"},
        {"version": "x", "kwargs": []},
        {"version": "x", "updateinfo": {}},
    ],
)
async def test_weight_update_rejects_an_invalid_order(
    gateway_for: GatewayFor, fleet: Fleet, order: Mapping[str, object]
) -> None:
    live = await syncing(gateway_for, fleet[0].url)
    assert (await live.client.post("/admin/weights", json=order)).status_code == 400
    assert (await info(live))["epoch"] == 0


# what goes wrong


def stubborn(refuses: str, *, generating: asyncio.Event | None = None) -> ScriptedWorker:
    """An engine that obeys, but for the path that it `refuses`; its answers wait for the event."""
    answers = {
        b"/is_paused": b'{"is_paused":false}',
        b"/weight_info": b'{"weight_version":"default"}',
        b"/reset_prefix_cache": b'{"success":true}',
    }

    async def script(connection: ScriptedConnection) -> None:
        while True:
            path = (await connection.read_request()).split(b" ", 2)[1].partition(b"?")[0]
            if generating is not None and path == b"/v1/chat/completions":
                await generating.wait()
            refused = path == refuses.encode()
            said = b"no such thing" if refused else answers.get(path, b"{}")
            head = b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n"
            await connection.write(head % (b"500 No" if refused else b"200 OK", len(said)) + said)

    return ScriptedWorker(script)


def asked(worker: ScriptedWorker) -> list[str]:
    """The orders that it was given, in order."""
    lines = [request.split(b" ", 2) for request in worker.requests]
    return [line[1].decode() for line in lines if line[0] == b"POST"]


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/pause", "pause"),
        ("/collective_rpc", "reload"),
        ("/reset_prefix_cache", "reset_prefix_cache"),
        ("/update_weight_version", "version"),
        ("/resume", "resume"),
    ],
)
async def test_weight_update_quarantines_only_the_worker_that_failed_a_step(
    gateway_for: GatewayFor, fleet: Fleet, path: str, step: str
) -> None:
    async with stubborn(path) as bad:
        live = await syncing(gateway_for, fleet[0].url, bad.url)
        report = (await update(live)).json()
        assert report["ok"] == ["w0"]
        failure = report["failed"]["w1"]
        assert failure == {"step": step, "reason": f"{path} was answered 500: no such thing"}
        assert await states(live) == {"w0": "up", "w1": "quarantined"}
        assert asked(bad)[-1] == "/resume"
        assert len({await say(live) for _ in range(4)}) == 1


@pytest.mark.parametrize("refused", ["/start_weight_update", "/update_weights"])
async def test_weight_update_finishes_a_failed_transfer_before_resume(
    gateway_for: GatewayFor, refused: str
) -> None:
    async with stubborn(refused) as bad:
        live = await syncing(gateway_for, bad.url)
        answer = await update(live, update_info={"names": []})
        assert answer.status_code == 502
        assert asked(bad)[-2:] == ["/finish_weight_update", "/resume"]


async def test_weight_update_does_not_resume_an_engine_that_cannot_finish(
    gateway_for: GatewayFor,
) -> None:
    async with stubborn("/finish_weight_update") as bad:
        live = await syncing(gateway_for, bad.url)
        assert (await update(live, update_info={})).status_code == 502
        assert "/resume" not in asked(bad)


async def test_weight_update_names_engines_without_endpoints_and_pauses_none(
    gateway_for: GatewayFor, fleet: Fleet, simulator: Simulator
) -> None:
    live = await syncing(gateway_for, fleet[0].url, simulator.url)
    answer = await update(live)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "no_development_endpoints"
    assert "w1" in error["message"]
    assert "w0" not in error["message"]
    assert await states(live) == {"w0": "up", "w1": "up"}
    assert await say(live)


async def test_weight_update_returns_502_if_every_worker_fails(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet))
    answer = await update(live, method="no_such")
    assert answer.status_code == 502
    assert set(answer.json()["failed"]) == {"w0", "w1"}
    refused = await live.client.post("/v1/chat/completions", json=body())
    assert refused.status_code == 503
    assert (await info(live))["version"] is None
    assert (await update(live)).json()["ok"] == ["w0", "w1"]
    assert await say(live)


async def test_weight_update_pauses_an_engine_only_after_its_calls_ended(
    gateway_for: GatewayFor,
) -> None:
    ended = asyncio.Event()
    async with stubborn("/none", generating=ended) as engine:
        live = await syncing(gateway_for, engine.url)
        call = asyncio.create_task(live.client.post("/v1/chat/completions", json=body()))
        await until(lambda: in_flight(live) == 1)
        changing = asyncio.create_task(update(live))
        await until(lambda: live.plugin(WeightSync).gate.closed)
        assert asked(engine) == ["/v1/chat/completions"]
        ended.set()
        assert (await call).status_code == 200
        assert (await changing).json()["ok"] == ["w0"]
        assert asked(engine)[1] == "/pause?mode=wait"


async def test_version_check_keeps_a_half_updated_engine_quarantined(
    gateway_for: GatewayFor,
) -> None:
    async with stubborn("/collective_rpc") as bad:
        live = await syncing(gateway_for, bad.url, check_interval=0.01)
        assert (await update(live)).status_code == 502
        before = len(bad.requests)
        await until(lambda: len(bad.requests) > before + 6)
        assert await states(live) == {"w0": "quarantined"}


async def test_version_check_accepts_a_restarted_engine_after_a_failed_update(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, fleet[0].url, check_interval=0.01)
    [worker] = live.gateway.workers.all
    assert (await update(live, method="no_such")).status_code == 502
    assert not worker.fit
    fleet[0].refuse()
    await until(lambda: worker not in live.plugin(WeightSync).doubtful)
    await fleet[0].accept()
    await until(lambda: worker.fit)


async def test_version_check_blocks_a_worker_until_it_reports_the_new_version(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet), check_interval=0.02)
    fleet[1].refuse()
    report = (await update(live)).json()
    assert (report["ok"], report["failed"]["w1"]["step"]) == (["w0"], "check")
    await fleet[1].accept()
    conditions = live.gateway.workers.all[1].conditions
    await until(lambda: "default" in conditions_reason(live))
    assert conditions["weight_sync"].blocks
    async with httpx.AsyncClient(base_url=fleet[1].url) as engine:
        await engine.post("/update_weight_version", json={"new_version": "step-2"})
    await until(lambda: live.gateway.workers.all[1].fit)


def conditions_reason(live: Live) -> str:
    found = live.gateway.workers.all[1].conditions.get("weight_sync")
    return "" if found is None else found.reason


async def test_version_check_blocks_a_worker_that_was_down(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet))
    assert (await update(live)).status_code == 200
    worker = live.gateway.workers.all[1]
    async with httpx.AsyncClient(base_url=fleet[1].url) as engine:
        await engine.post("/update_weight_version", json={"new_version": "default"})
    worker.mark("probes", "down", "it was killed")
    worker.clear("probes")
    assert not worker.fit
    await until(lambda: "it has the weights default, the fleet step-2" in conditions_reason(live))
    assert (await update(live, "step-3")).json()["ok"] == ["w0", "w1"]
    assert worker.fit


async def test_version_check_blocks_a_new_worker(gateway_for: GatewayFor, fleet: Fleet) -> None:
    live = await syncing(gateway_for, fleet[0].url)
    assert (await update(live)).status_code == 200
    await live.client.post("/admin/workers", json={"url": fleet[1].url, "worker_id": "w1"})
    assert not live.gateway.workers.all[1].fit
    await until(lambda: "it has the weights default" in conditions_reason(live))
    live.gateway.workers.remove("w1")
    assert await states(live) == {"w0": "up"}


async def test_weight_version_survives_a_gateway_restart(
    gateway_for: GatewayFor, fleet: Fleet, tmp_path: Path
) -> None:
    path = str(tmp_path / "gateway.db")
    first = await syncing(
        gateway_for, *(one.url for one in fleet), storage=StorageSettings(path=path)
    )
    assert (await update(first)).status_code == 200
    async with httpx.AsyncClient(base_url=fleet[1].url) as engine:
        await engine.post("/update_weight_version", json={"new_version": "default"})
    again = await syncing(
        gateway_for, *(one.url for one in fleet), storage=StorageSettings(path=path)
    )
    await until(lambda: again.gateway.workers.all[0].fit)
    await until(lambda: "the weights default, the fleet step-2" in conditions_reason(again))
    assert (await traced(again, "after")).weight_version == "step-2"


async def test_weight_sync_applies_new_options_to_the_next_call(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, fleet[0].url)
    live.plugin(WeightSync).reconfigure(WeightSync.Config(max_held=0))
    await live.client.post("/admin/weights/pause", json={})
    refused = await live.client.post("/v1/chat/completions", json=body())
    assert refused.json()["error"]["code"] == "weights_updating"
    await live.client.post("/admin/weights/resume")


# who leaves, and when


async def engines_go_on(fleet: Fleet) -> bool:
    for one in fleet:
        async with httpx.AsyncClient(base_url=one.url) as engine:
            if (await engine.get("/is_paused")).json()["is_paused"]:
                return False
    return True


async def test_weight_update_continues_if_its_caller_disconnects(
    gateway_for: GatewayFor, fleet: Fleet
) -> None:
    live = await syncing(gateway_for, *(one.url for one in fleet))
    running = asyncio.create_task(say(live, max_tokens=100))
    await until(lambda: in_flight(live) == 1)
    ordering = asyncio.create_task(update(live))
    await until(lambda: live.plugin(WeightSync).gate.closed)
    again = await update(live, "step-9")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "weights_busy")
    ordering.cancel()
    await running
    await until(lambda: not live.plugin(WeightSync).gate.closed)
    told = await info(live)
    assert (told["version"], told["last"]["ok"]) == ("step-2", ["w0", "w1"])


@pytest.mark.parametrize("by_hand", [False, True])
async def test_gateway_shutdown_resumes_paused_engines(fleet: Fleet, by_hand: bool) -> None:
    config = Config(
        workers=tuple(Worker(url=one.url) for one in fleet),
        plugins=(entry("weight_sync"),),
        storage=StorageSettings(path=":memory:"),
        probes=Probes(interval=None, models_interval=None),
    )
    async with httpx.AsyncClient(base_url=fleet[0].url) as engine, serve(config) as live:
        left: list[asyncio.Task[Any]] = []
        if by_hand:
            await live.client.post("/admin/weights/pause", json={})
        else:  # its pause waits for a call that does not end soon, and that is not the gateway's
            asked = engine.post("/v1/chat/completions", json=body(max_tokens=1500))
            left.append(asyncio.create_task(asked))
            await until(lambda: fleet[0].stats.in_flight == 1)
            left.append(asyncio.create_task(update(live)))
        while await engines_go_on(fleet):
            pass
    for task in left:
        task.cancel()
    assert not live.plugin(WeightSync).gate.closed
    assert await engines_go_on(fleet)
