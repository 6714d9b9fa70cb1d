"""Reloads while engines run: what goes on, what ends, what is refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.runtime import Runtime
from support.gateways.capturing import chat
from support.gateways.reloadable import Reloadable, reloadable
from support.plugins.recording_plugin import until
from support.ports import free_port
from support.runtime.boxes import CHAT, QUICK, fleet_of, phases, reached, starts
from support.runtime.tiny_engines import tiny


class Box:
    """A gateway with the plugin, whose options a test changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options: dict[str, Any] = {
            "models": [tiny("a"), tiny("b")],
            "runtimes": [{"name": "gpu", "port": free_port()}],
            "logs": str(folder),
            "rules": QUICK,
            "hold": 60.0,
        }

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Reloadable]:
        path = self.folder / "gateway.yaml"
        async with reloadable(path, self.plugin()) as running:
            yield running

    def plugin(self, **changed: Any) -> tuple[type, dict[str, Any]]:
        return Runtime, {**self.options, **changed}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


async def ask(running: Reloadable, name: str) -> tuple[int, str]:
    answer = await running.client.post(CHAT, json=chat(model=name))
    told = answer.json()
    return answer.status_code, told["model"] if "model" in told else told["error"]["code"]


def identity_of(running: Reloadable) -> str | None:
    [owner] = fleet_of(running.live).owners
    return owner.identity


@pytest.mark.slow
async def test_engine_goes_on_while_options_change_and_models_come(box: Box) -> None:
    async with box.serving() as running:
        assert await ask(running, "a") == (200, "a")
        assert await ask(running, "c") == (404, "model_not_found")
        before = identity_of(running)
        models = [*box.options["models"], tiny("c")]
        await running.changed(box.plugin(models=models, hold=30.0))
        assert await ask(running, "a") == (200, "a")
        assert identity_of(running) == before
        assert await ask(running, "c") == (200, "c")
        assert phases(running.live).count("hot(a)") == 1


@pytest.mark.slow
async def test_new_rules_and_realtime_model_are_followed(box: Box) -> None:
    async with box.serving() as running:
        assert await ask(running, "a") == (200, "a")
        runtimes = [{**box.options["runtimes"][0], "realtime": "b"}]
        await running.changed(box.plugin(runtimes=runtimes, rules={**QUICK, "tokens": 7}))
        await reached(running.live, lambda state: state == "hot(b)")
        shown = (await running.client.get("/admin/runtime")).json()["runtimes"][0]
        assert shown["tokens"] == 7


@pytest.mark.slow
async def test_engine_of_a_model_that_is_removed_ends(box: Box) -> None:
    async with box.serving() as running:
        assert await ask(running, "b") == (200, "b")
        await running.changed(box.plugin(models=box.options["models"][:1]))
        await reached(running.live, lambda state: state == "idle")
        assert identity_of(running) is None
        assert await ask(running, "b") == (404, "model_not_found")
        assert await ask(running, "a") == (200, "a")
        assert list((await running.client.get("/admin/runtime")).json()["models"]) == ["a"]


@pytest.mark.slow
async def test_call_that_waits_for_a_model_that_is_removed_is_told_so(box: Box) -> None:
    box.options["models"].append(tiny("slow", "load=600"))
    async with box.serving() as running:
        call = asyncio.create_task(ask(running, "slow"))
        await reached(running.live, lambda state: state == "loading(slow)")
        await running.changed(box.plugin(models=box.options["models"][:2]))
        async with asyncio.timeout(30):
            assert await call == (404, "model_not_found")
        assert await ask(running, "a") == (200, "a")


@pytest.mark.slow
async def test_changed_arguments_apply_to_the_next_start(box: Box) -> None:
    async with box.serving() as running:
        assert await ask(running, "a") == (200, "a")
        broken = tiny("a", command=["/nonexistent/engine"])
        await running.changed(box.plugin(models=[broken, tiny("b")]))
        assert await ask(running, "a") == (200, "a")
        assert await ask(running, "b") == (200, "b")
        await running.changed(box.plugin(models=[broken, tiny("b")], hold=0.5))
        assert await ask(running, "a") == (503, "model_load_failed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"runtimes": [{"name": "gpu", "port": 1}]}, "hosts and ports are read only at the start"),
        ({"runtimes": [{"name": "one"}, {"name": "two", "port": 2}]}, "restart the gateway"),
        ({"models": [tiny("a"), tiny("a")]}, "the name a is given 2 times"),
        ({"models": [tiny("a"), tiny("b", sleep_level=1)]}, "which models sleep"),
    ],
)
async def test_change_that_needs_a_restart_is_refused_and_changes_nothing(
    box: Box, changed: dict[str, Any], words: str
) -> None:
    async with box.serving() as running:
        assert await ask(running, "a") == (200, "a")
        before = identity_of(running)
        assert words in await running.refused(box.plugin(**changed, hold=1.0))
        assert await ask(running, "a") == (200, "a")
        assert (identity_of(running), starts(box.folder)) == (before, 1)
        assert fleet_of(running.live).options.hold == 60.0


async def test_worker_with_the_name_of_a_runtime_is_refused_until_the_plugin_has_gone(
    box: Box,
) -> None:
    taken = [{"url": "http://127.0.0.1:1", "worker_id": "gpu"}]
    words = "workers: gpu: the engine of a runtime of the plugin runtime has this `worker_id`"
    async with box.serving() as running:
        assert words in await running.refused(box.plugin(), workers=taken)
        assert [one.id for one in running.live.gateway.workers.all] == []
        assert await ask(running, "a") == (200, "a")
        await running.changed()
        await until(lambda: not running.live.gateway.workers.loadable)
        await running.changed(workers=taken)
        told = await running.refused(box.plugin(), workers=taken)
        assert "gpu: a worker of the configuration has this `worker_id`" in told
        assert [one.id for one in running.live.gateway.workers.all] == ["gpu"]


@pytest.mark.slow
async def test_plugin_that_is_removed_ends_its_engine_after_its_calls_and_may_come_back(
    box: Box,
) -> None:
    box.options["models"] = [tiny("a", "slow=1")]
    async with box.serving() as running:
        workers = running.live.gateway.workers
        call = asyncio.create_task(ask(running, "a"))
        await until(lambda: bool(workers.all) and workers.all[0].in_flight == 1)
        await running.changed()
        assert "still has calls" in await running.refused(box.plugin())
        assert await call == (200, "a")
        await until(lambda: not workers.loadable)
        assert (workers.all, starts(box.folder)) == ((), 1)
        assert await ask(running, "a") != (200, "a")
        await running.changed(box.plugin())
        assert await ask(running, "a") == (200, "a")


@pytest.mark.slow
async def test_calls_that_begin_after_the_removal_are_finished_before_the_engine_ends(
    box: Box,
) -> None:
    box.options["models"] = [tiny("a", "slow=1")]
    async with box.serving() as running:
        workers = running.live.gateway.workers
        first = asyncio.create_task(ask(running, "a"))
        await until(lambda: bool(workers.all) and workers.all[0].in_flight == 1)
        await running.changed()
        second = asyncio.create_task(ask(running, "a"))
        await until(lambda: workers.all[0].in_flight == 2)
        assert (await first, await second) == ((200, "a"), (200, "a"))
        await until(lambda: workers.all == ())
