"""Models that no worker serves now, and that a plugin can load: their calls may wait for one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import pytest
from support.gateways.capturing import chat

from gateway import Attempt, Call, ChooseAgain, Host, Worker, WorkerSettings, hookimpl
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live

CHAT = "/v1/chat/completions"


class Loads:
    """Can load the model `sim`; `asked` is set once a call waits for it, `come` lets it go on."""

    made: ClassVar[list["Loads"]] = []

    def __init__(self) -> None:
        self.asked, self.come = asyncio.Event(), asyncio.Event()
        self.gateway: Host | None = None
        self.made.append(self)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self.gateway = gateway
        gateway.workers.set_loadable(frozenset({"sim"}))
        yield

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        if workers:
            return workers
        self.asked.set()
        await self.come.wait()
        raise ChooseAgain

    @hookimpl
    def attempt_finished(self, attempt: Attempt) -> None:
        if attempt.error is not None:
            attempt.worker.mark("loads", "suspect", "it could not be reached")


@pytest.fixture
def loads() -> type[Loads]:
    Loads.made.clear()
    return Loads


async def test_call_for_a_loadable_model_waits_for_its_worker(
    gateway_for: GatewayFor, loads: type[Loads], simulator: Simulator
) -> None:
    live = await gateway_for(loads, workers=())
    [plugin] = loads.made
    call = asyncio.create_task(live.client.post(CHAT, json=chat(model="sim")))
    await plugin.asked.wait()
    _add(live, simulator.url)
    plugin.come.set()
    assert (await call).status_code == 200


async def test_model_that_nobody_can_load_does_not_exist(
    gateway_for: GatewayFor, loads: type[Loads]
) -> None:
    live = await gateway_for(loads, workers=())
    answer = await live.client.post(CHAT, json=chat(model="unknown"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_only_worker_gets_no_call_for_another_loadable_model(
    gateway_for: GatewayFor, loads: type[Loads], simulator: Simulator
) -> None:
    live = await gateway_for(loads, workers=(simulator.url,))
    [plugin] = loads.made
    live.gateway.workers.all[0].models = frozenset({"other"})
    live.gateway.workers.set_loadable(frozenset({"sim", "other"}))
    call = asyncio.create_task(live.client.post(CHAT, json=chat(model="sim")))
    await plugin.asked.wait()
    call.cancel()
    assert simulator.stats.served == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_fault_2_5_call_that_no_engine_received_waits_for_the_next(
    gateway_for: GatewayFor, loads: type[Loads], stream: bool
) -> None:
    live = await gateway_for(loads, workers=())
    [plugin] = loads.made
    async with Simulator(SimulatorConfig()) as first:
        _add(live, first.url)
        first.refuse()
        body = chat(model="sim", stream=stream)
        call = asyncio.create_task(live.client.post(CHAT, json=body))
        await plugin.asked.wait()
    live.gateway.workers.remove("engine")
    async with Simulator(SimulatorConfig()) as second:
        _add(live, second.url)
        plugin.come.set()
        answer = await call
        assert (answer.status_code, second.stats.served) == (200, 1)


async def test_models_route_lists_loadable_models(
    gateway_for: GatewayFor, loads: type[Loads]
) -> None:
    live = await gateway_for(loads, "openai_models", workers=())
    answer = await live.client.get("/v1/models")
    assert [card["id"] for card in answer.json()["data"]] == ["sim"]


def _add(live: Live, url: str) -> None:
    live.gateway.workers.add(WorkerSettings(url=url, worker_id="engine", models=("sim",)))
