"""rllm-model-gateway's own clients drive this gateway, unchanged."""

import asyncio
import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import rllm_model_gateway as rllm
from rllm_model_gateway.models import WorkerInfo
from support.gateways.capturing import capturing, chat

from gateway.client import AsyncGatewayClient, GatewayClient
from gateway.simulator import Simulator
from gateway.testing import GatewayFor


class Awaited:
    """A blocking client whose methods run in a thread, so that one test drives both kinds."""

    def __init__(self, client: rllm.GatewayClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(asyncio.to_thread, getattr(self._client, name))


@pytest.fixture(params=["blocking", "async"])
def client_for(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    if request.param == "async":
        return lambda url: rllm.AsyncGatewayClient(url)
    return lambda url: Awaited(rllm.GatewayClient(url))


async def test_rllm_client_drives_workers_sessions_traces_and_flush(
    gateway_for: GatewayFor, tmp_path: Path, client_for: Callable[[str], Any]
) -> None:
    """Workers, sessions, calls, traces, weight version, flush, and the end of it."""
    async with Simulator() as worker:
        live = await capturing(gateway_for, tmp_path, workers=[])
        client = client_for(live.url)
        assert (await client.health())["status"] == "ok"
        worker_id = await client.add_worker(f"{worker.url}/v1", model_name="sim")
        expected = WorkerInfo(
            worker_id=worker_id, url=worker.url, api_path="/v1", model_name="sim", weight=1
        )
        assert await client.list_workers() == [expected]

        session_id = await client.create_session("harbor/hello:0", metadata={"task": 1})
        assert session_id == "harbor/hello:0"
        base_url = rllm.GatewayClient(live.url).get_session_url(session_id)
        async with httpx.AsyncClient(timeout=None) as agent:
            for stream in (False, True):
                body = chat("Hello", stream=stream, max_tokens=4)
                answer = await agent.post(f"{base_url}/chat/completions", json=body)
                assert answer.status_code == 200
                assert '"token_ids":[' not in answer.text, "the agent sees nothing of it"
                assert await client.flush(timeout=5.0)

        first, second = traces = await client.get_session_traces(session_id)
        assert all(isinstance(trace, rllm.TraceRecord) for trace in traces)
        for trace in traces:
            assert (trace.session_id, trace.model) == (session_id, "sim")
            assert trace.messages == chat()["messages"]
            assert len(trace.completion_token_ids) == len(trace.logprobs or []) == 4
            assert trace.token_counts == {
                "prompt": len(trace.prompt_token_ids),
                "completion": 4,
            }
            assert trace.response_message["role"] == "assistant"
            assert trace.finish_reason == "length"
            assert trace.latency_ms > 0
        assert first.prompt_token_ids == second.prompt_token_ids
        assert await client.get_trace(first.trace_id) == first
        assert await client.get_session_traces(session_id, limit=1) == [first]
        assert await client.get_session_traces(session_id, since=second.timestamp) == [second]

        info = await client.get_session_info(session_id)
        assert info["trace_count"] == 2
        assert info["metadata"] == {"task": 1}
        assert await client.list_sessions() == [info]
        assert await client.list_sessions(since=info["created_at"], limit=5) == [info]
        assert await client.list_sessions(since=info["created_at"] + 1) == []
        generated = await client.create_session()
        assert len(await client.list_sessions()) == 2
        assert await client.delete_session(generated) == 0
        assert await client.delete_session(session_id) == 2
        assert await client.list_sessions() == []

        await client.remove_worker(worker_id)
        assert await client.list_workers() == []
        await client.close()


async def test_gateway_serves_rllm_endpoints_without_a_client_method(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """Endpoints of the contract that its clients have no method for."""
    live = await capturing(gateway_for, tmp_path)
    assert (await live.client.get("/health/workers")).json()["healthy"] == 1
    for body in ({"weight_version": 3}, {"weight_version": 0}):
        assert (await live.client.post("/admin/weight_version", json=body)).json() == body
        assert (await live.client.get("/admin/weight_version")).json() == body
    for bad in ({}, {"weight_version": None}, {"weight_version": 1.5}):
        assert (await live.client.post("/admin/weight_version", json=bad)).status_code == 400
    answer = await live.client.post("/admin/workers", json={"api_path": "/v1"})
    assert answer.status_code == 400
    assert "url" in json.loads(answer.content)["error"]["message"]


async def test_rllm_client_raises_for_unknown_ids(
    gateway_for: GatewayFor, tmp_path: Path, client_for: Callable[[str], Any]
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client = client_for(live.url)
    for asked in (
        client.get_trace("no such"),
        client.get_session_info("no such"),
        client.remove_worker("no such"),
    ):
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await asked
    assert await client.get_session_traces("no such") == []
    assert await client.delete_session("no such") == 0
    await client.close()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(rllm.GatewayClient, GatewayClient), (rllm.AsyncGatewayClient, AsyncGatewayClient)],
)
def test_gateway_clients_have_the_methods_of_the_rllm_clients(theirs: type, ours: type) -> None:
    methods = [name for name in vars(theirs) if not name.startswith("_")]
    assert len(methods) >= 13
    for name in ("__init__", *methods):
        wanted = inspect.signature(getattr(theirs, name)).parameters
        offered = inspect.signature(getattr(ours, name)).parameters
        in_place = [p for p in offered.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert [p.name for p in in_place[: len(wanted)]] == list(wanted), name
        assert all(p.default is not p.empty for p in list(offered.values())[len(wanted) :])
