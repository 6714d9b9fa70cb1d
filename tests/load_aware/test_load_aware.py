"""Calls go where engines say that the load is least: over HTTP, with engines that fail to tell."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_plugins.load_aware import LoadAware
from gateway_plugins.load_aware.loads import Loads
from gateway_plugins.load_aware.options import Options
from gateway_plugins.load_aware.reading import EngineLoad, load_in
from hypothesis import given
from hypothesis import strategies as st

from gateway import Workers, config
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live, entry

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m{}"} 3.0
vllm:num_requests_running{engine="1",model_name="m{}"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 5e-01
"""
SGLANG = b"""sglang:num_running_reqs{model_name="m"} 7
sglang:num_queue_reqs{model_name="m"} 1 1395066363000
sglang:token_usage{model_name="m"} 0.28"""
CHAT = {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def test_load_is_read_from_the_metrics_of_engines() -> None:
    assert load_in(VLLM) == EngineLoad(7, 2, 0.5)
    assert load_in(SGLANG) == EngineLoad(7, 1, 0.28)
    assert load_in(b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 1") == EngineLoad(
        2, 1
    )
    assert load_in(b"tgi_batch_current_size 2\r\ntgi_queue_size 0\r\n") == EngineLoad(2, 0)
    assert load_in(b"vllm:gpu_cache_usage_perc 0.5\nvllm:num_requests_waiting 1") is None
    assert load_in(b"vllm:num_requests_running -1\nsglang:num_running_reqs 1e400") is None


@given(
    st.binary()
    | st.lists(st.sampled_from([VLLM, b"\n", b" 1.2.3\n", b"{", b"9e9999"])).map(b"".join)
)
def test_load_is_read_from_any_bytes(metrics: bytes) -> None:
    found = load_in(metrics)
    assert found is None or found.running >= 0


def registry(*weights: float) -> Workers:
    return Workers(
        config.Config(
            workers=tuple(
                config.Worker(url=f"http://w{place}", worker_id=f"w{place}", weight=weight)
                for place, weight in enumerate(weights)
            )
        )
    )


def test_load_joins_what_engines_tell_with_what_has_happened_since() -> None:
    one, two = registry(1, 2).all
    loads = Loads(Options(kv_weight=1.0, waiting_weight=1.0))
    assert (loads.cost(one, 0.0), loads.cost(two, 0.0)) == (1, 0.5), "its own counts"
    assert one.begin()
    loads.note(one, EngineLoad(3, 2), 0.0)  # four calls are of others
    assert loads.cost(one, 0.0) == 1 + 1 + 4 + 2
    assert one.begin()
    assert loads.cost(one, 0.0) == 1 + 2 + 4 + 2, "a call that it has not told of yet"
    one.end()
    one.end()
    assert loads.cost(one, 0.0) == 1 + 0 + 4 + 1, "a call that has ended since made room"
    loads.note(two, EngineLoad(0, 0, 1.0), 0.0)
    assert loads.cost(two, 0.0) == 2 * 0.5, "a full cache"
    assert loads.cost(one, 5.1) == 1, "that was too long ago"
    loads.keep({"w1"})
    assert loads.cost(one, 0.0) == 1
    assert loads.cost(two, 0.0) == 1


@contextlib.asynccontextmanager
async def two_engines() -> AsyncIterator[tuple[Simulator, Simulator]]:
    async with Simulator(SimulatorConfig(itl=30.0)) as busy, Simulator() as idle:
        yield busy, idle


def named(*simulators: Simulator) -> list[config.Worker]:
    return [
        config.Worker(url=one.url, worker_id=f"gpu-{place}") for place, one in enumerate(simulators)
    ]


async def told(live: Live, worker_id: str, **values: Any) -> None:
    """Wait until the gateway has been told this of the worker."""
    async with asyncio.timeout(30):
        while True:
            found = (await live.client.get("/admin/load")).json()[worker_id]
            if values.items() <= found.items():
                return


async def test_calls_go_to_the_engine_that_others_do_not_use(gateway_for: GatewayFor) -> None:
    """Two calls run at the first engine that did not come through this gateway."""
    async with two_engines() as (busy, idle), contextlib.AsyncExitStack() as others:
        live = await gateway_for(
            entry(LoadAware, interval=0.02), "metrics", workers=named(busy, idle)
        )
        await told(live, "gpu-0", running=0)
        for _ in range(2):
            body = {**CHAT, "max_tokens": 50, "stream": True}
            stream = live.client.stream("POST", f"{busy.url}/v1/chat/completions", json=body)
            await others.enter_async_context(stream)
        await told(live, "gpu-0", running=2, waiting=0, in_flight=0)
        for _ in range(4):
            answer = await live.client.post("/v1/chat/completions", json=CHAT)
            assert answer.headers["x-gateway-worker"] == "gpu-1"
        shown = (await live.client.get("/metrics")).text
        assert 'gateway_load_cost{worker="gpu-0"} 3.' in shown
        assert "gateway_load_scrapes_total" in shown


async def test_engine_that_does_not_tell_is_named_once_and_counted_by_the_gateway(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.load_aware")
    async with Simulator() as engine:
        aware = entry(LoadAware, interval=0.01, path="/nowhere")
        live = await gateway_for(aware, workers=named(engine, engine))
        plugin = live.plugin(LoadAware)
        await told(live, "gpu-1", silent="status 404", running=None, cost=1.0)
        answers = [await live.client.post("/v1/chat/completions", json=CHAT) for _ in range(4)]
        found = {answer.headers["x-gateway-worker"] for answer in answers}
        assert found == {"gpu-0", "gpu-1"}
        plugin.reconfigure(Options(interval=0.01))
        await told(live, "gpu-0", running=0, silent=None)
        await told(live, "gpu-1", running=0, silent=None)
    said = [one.getMessage() for one in caplog.records if one.name == "gateway.load_aware"]
    assert said[:4] == [
        *(
            f"worker gpu-{n} does not tell its load at /nowhere (status 404): the gateway's own "
            "counts are used"
            for n in (0, 1)
        ),
        *(f"worker gpu-{n}: it tells its load again" for n in (0, 1)),
    ]
