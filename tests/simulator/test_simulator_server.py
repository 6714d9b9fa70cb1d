"""What surrounds generation: counts, refusals, configuration, and serving itself."""

import asyncio
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from simulator.test_simulator import MESSAGES, NOW, Body, complete
from simulator.test_simulator_life import ended, until_it_listens
from support.ports import free_port

from gateway.simulator import Simulator, SimulatorConfig, create_simulator


async def test_simulator_load_and_metrics_count_calls_in_flight() -> None:
    async with (
        Simulator(SimulatorConfig(model='a "sim"')) as sim,
        httpx.AsyncClient(base_url=sim.url, timeout=None) as client,
    ):
        served = await complete(client)
        waiting = asyncio.create_task(
            client.post("/v1/completions", json={"prompt": "a"}, headers={"x-sim-ttft": "3600"})
        )
        async with client.stream(
            "POST",
            "/v1/completions",
            json={"prompt": "abc def", "stream": True},
            headers={"x-sim-itl": "3600"},
        ) as running:
            parts = running.aiter_bytes()
            await anext(parts)
            while (await client.get("/load")).json() != {"server_load": 2}:
                pass
            metrics = await metrics_of(client)
        waiting.cancel()
        await sim.idle()
    usage = served["usage"]
    assert metrics["vllm:num_requests_running"] == 1
    assert metrics["vllm:num_requests_waiting"] == 1
    assert 0 < metrics["vllm:kv_cache_usage_perc"] < 0.01
    assert metrics["vllm:prompt_tokens_total"] > usage["prompt_tokens"]
    assert metrics["vllm:generation_tokens_total"] == usage["completion_tokens"] + 1
    assert metrics["vllm:request_success_total"] == 1
    assert (sim.stats.served, sim.stats.aborted, sim.stats.in_flight) == (1, 2, 0)


async def metrics_of(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(r'{engine="0",model_name="a \"sim\""}' in line for line in lines)
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_simulator_reports_its_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json() == {"version": "0.32.0"}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/chat/completions", {"messages": "hi"}, 400, "Input should be a valid list"),
        ("/v1/chat/completions", {"messages": [3]}, 400, "'loc': 'body.messages.0'"),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "temperature": "hot"},
            400,
            "float_parsing",
        ),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": "often"}, 400, "bool_parsing"),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "top_p": 1.5},
            400,
            "top_p must be in (0, 1]",
        ),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "tools": [NOW], "tool_choice": {"function": {"name": "fly"}}},
            400,
            "does not match any",
        ),
        ("/v1/completions", {"prompt": ["a", ""]}, 400, "at least one prompt"),
        ("/v1/completions", {"prompt": ["a", 1]}, 400, "Input should be a valid list"),
        ("/v1/completions", {"prompt": "a", "allowed_token_ids": [5000]}, 400, "out-of-vocab"),
        ("/tokenize", {}, 400, "Either prompt or messages"),
        ("/detokenize", {"tokens": [1, -3]}, 400, "body.tokens.1"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "`other` does not exist"),
    ],
)
async def test_simulator_rejects_invalid_requests_beyond_the_recorded_ones(
    client: httpx.AsyncClient, path: str, body: Body, status: int, says: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


async def test_simulator_application_runs_on_any_asgi_server() -> None:
    app = create_simulator(SimulatorConfig(model="tiny"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
        assert (await complete(client))["model"] == "tiny"
        with pytest.raises(RuntimeError, match="use Simulator or serve"):
            await client.post(
                "/v1/completions", json={"prompt": "a"}, headers={"x-sim-fault": "reset-before"}
            )


async def test_simulator_closes_all_calls_tasks_and_connections_at_exit() -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=None))
        sim = await stack.enter_async_context(Simulator(SimulatorConfig(ttft=3600)))
        calls = [
            asyncio.create_task(client.post(f"{sim.url}/v1/completions", json={"prompt": "a"})),
            asyncio.create_task(client.get(f"{sim.url}/ping", headers={"x-sim-fault": "hang"})),
        ]
        while (sim.stats.in_flight, sim.stats.connections) != (1, 3):
            await client.get(f"{sim.url}/health")
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [httpx.RemoteProtocolError] * 2
    assert sim.stats.connections == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", sim.port)


async def test_simulator_refuses_and_accepts_connections_again(simulator: Simulator) -> None:
    async with httpx.AsyncClient(base_url=simulator.url) as client:
        assert (await client.get("/health")).status_code == 200
        simulator.refuse()
        assert (await client.get("/health")).status_code == 200, "open connections stay"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", simulator.port)
        await simulator.accept()
        assert httpx.URL(simulator.url).port == simulator.port
        assert (await complete(client))["object"] == "text_completion"
    async with httpx.AsyncClient(base_url=simulator.url) as client:
        assert (await client.get("/health")).status_code == 200
    assert simulator.stats.accepted == 2


def test_simulator_serves_in_a_process_of_its_own() -> None:
    port = free_port()
    code = (
        "import logging; logging.basicConfig(level='INFO'); from gateway.simulator import *; "
        f"serve(SimulatorConfig(model='alone'), port={port})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        until_it_listens(process)
        url = f"http://127.0.0.1:{port}/v1/completions"
        assert httpx.post(url, json={"prompt": "a"}, timeout=None).json()["model"] == "alone"
    finally:
        assert ended(process) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("wrong", [{"ttft": -1.0}, {"itl": -0.1}, {"max_model_len": 1}])
def test_simulator_config_rejects_negative_times_and_too_short_models(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=r"negative|at least"):
        SimulatorConfig(**wrong)
