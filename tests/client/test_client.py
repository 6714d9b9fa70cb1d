"""GatewayClient and AsyncGatewayClient against a real gateway."""

import ast
import asyncio
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gateways.capturing import call, capturing
from support.plugins.hook_probes import Keys

from gateway.client import AsyncGatewayClient, GatewayClient, GatewayClientError, awaited, blocking
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, answer_of, entry


class Threaded:
    """A GatewayClient whose methods run in a thread, so that one test drives both clients."""

    def __init__(self, url: str, **options: Any) -> None:
        self.blocking = GatewayClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(asyncio.to_thread, getattr(self.blocking, name))

    async def iter_traces(self, *arguments: Any) -> Any:
        for trace in await asyncio.to_thread(lambda: [*self.blocking.iter_traces(*arguments)]):
            yield trace


ClientFor = Callable[..., Any]


@pytest.fixture(params=["blocking", "async"])
def client_for(request: pytest.FixtureRequest) -> ClientFor:
    return AsyncGatewayClient if request.param == "async" else Threaded


async def test_client_manages_sessions_and_traces(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client = client_for(f"{live.url}/", timeout=20.0)
    odd = "a/v1/b c?#%2F"
    assert await client.create_session(odd, {"n": 1}, {"max_tokens": 2}) == odd
    url = GatewayClient(live.url).get_session_url(odd)
    for stream in (True, False):
        await call(
            live, url.removeprefix(f"{live.url}/sessions/").removesuffix("/v1"), stream=stream
        )
    info = await client.get_session_info(odd)
    assert (info.session_id, info.trace_count, info.metadata) == (odd, 2, {"n": 1})
    assert info.sampling_params == {"max_tokens": 2}
    assert await client.list_sessions() == [info]
    assert await client.list_sessions(limit=0) == []
    traces = await client.get_session_traces(odd)
    assert [len(trace.completion_token_ids) for trace in traces] == [2, 2]
    assert await client.get_trace(traces[0].trace_id) == traces[0]
    assert [trace async for trace in client.iter_traces(odd, None, 1)] == traces
    assert await client.query_traces() == traces
    assert await client.query_traces([odd], limit=1) == traces[:1]
    assert await client.query_traces(verdict="INCOMPLETE") == []
    assert await client.query_traces(since=traces[1].timestamp) == traces[1:]
    assert await client.query_traces(until=traces[1].timestamp, model="sim") == traces[:1]
    assert await client.delete_sessions([odd, "no such"]) == 2
    assert await client.delete_session(odd) == 0
    await client.close()


async def test_client_adds_rewards_and_reads_trajectories(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client = client_for(live.url)
    await call(live, "a")
    [trace] = await client.get_session_traces("a")
    given = [
        await client.add_reward("a", 1, "tests", trace.trace_id),
        await client.add_reward("a", value=0.25),
    ]
    assert [(reward.value, reward.source) for reward in given] == [(1.0, "tests"), (0.25, "")]
    assert await client.rewards("a") == given
    found = await client.trajectories("a")
    assert found.rewards == given
    [branch] = found.trajectories
    assert branch.token_ids == trace.prompt_token_ids + trace.completion_token_ids
    assert sum(branch.loss_mask) == len(trace.completion_token_ids)
    assert branch.trace_ids == [trace.trace_id]
    await client.close()


async def test_client_manages_workers_and_the_weight_version(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path, workers=[])
    client = client_for(live.url)
    assert await client.add_worker("http://h:1/x", weight=0.5, worker_id="one/v1/#2") == "one/v1/#2"
    assert await client.add_worker("http://h:1", model_name="m") == "h:1"
    one, two = await client.list_workers()
    assert (one.api_path, one.weight, two.api_path, two.model_name) == ("/x", 0.5, "/v1", "m")
    health = await client.health_workers()
    assert (health.workers, health.healthy, health.total) == ([one, two], 2, 2)
    await client.remove_worker("one/v1/#2")
    assert await client.list_workers() == [two]
    assert await client.get_weight_version() is None
    await client.set_weight_version(4)
    assert await client.get_weight_version() == 4
    assert await client.flush() is True
    assert await client.health() == {"status": "ok"}
    await client.close()


async def test_client_error_carries_the_gateway_error(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path)
    client = client_for(live.url)
    with pytest.raises(GatewayClientError, match=r"GET /traces/no%2Fsuch: 404: .*no such trace"):
        await client.get_trace("no/such")
    with pytest.raises(GatewayClientError) as refused:
        await client.add_worker("http://user:hunter2@h")
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "invalid_request", "url")
    assert "hunter2" not in str(error)
    await client.close()


async def test_client_sends_its_api_key(
    gateway_for: GatewayFor, tmp_path: Path, client_for: ClientFor
) -> None:
    live = await capturing(gateway_for, tmp_path, entry(Keys, key="Bearer a"))
    with_key, without = client_for(live.url, api_key="abc"), client_for(live.url)
    assert await with_key.list_sessions() == []
    with pytest.raises(GatewayClientError) as refused:
        await without.list_sessions()
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    await with_key.close()
    await without.close()


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (answer_of(b"<html>", status="502 Bad Gateway", content_type="text/html"), 502, "<html>"),
        (answer_of(b"", status="503 Service Unavailable"), 503, "Service Unavailable"),
        (answer_of(b'{"error": "text"}', status="404 Not Found"), 404, '{"error": "text"}'),
        (answer_of(b'{"session_id": 7}'), 200, "not a gateway"),
        (answer_of(b"\xff"), 200, "not a gateway"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", None, "RemoteProtocolError"),
        (b"garbage", None, "RemoteProtocolError"),
    ],
)
async def test_client_raises_one_error_type_for_any_bad_response(
    client_for: ClientFor, answer: bytes, status: int | None, said: str
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(answer)

    async with ScriptedWorker(script) as stranger:
        client = client_for(stranger.url)
        with pytest.raises(GatewayClientError) as failed:
            await client.get_session_info("a")
        await client.close()
    assert failed.value.status == status
    assert said in str(failed.value)


async def test_client_raises_if_the_gateway_is_unreachable(client_for: ClientFor) -> None:
    for url in ("http://127.0.0.1:1", "h:1", "http://[", "ftp://h"):
        client = client_for(url)
        with pytest.raises(GatewayClientError) as failed:
            await client.health()
        assert failed.value.status is None
        await client.close()


def test_blocking_and_async_clients_have_the_same_methods() -> None:
    """What one can do the other can, with the same arguments."""
    for name, method in inspect.getmembers(GatewayClient, inspect.isfunction):
        if not name.startswith("__") or name == "__init__":
            assert str(inspect.signature(method)).replace("Iterator", "AsyncIterator").replace(
                "httpx.", ""
            ) == str(inspect.signature(getattr(AsyncGatewayClient, name))).replace("httpx.", "")
    for module in (blocking, awaited):
        bodies = [
            node.body
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        assert max(len(body) for body in bodies) <= 3, "both only send what asks.py has"


def test_client_closes_with_its_block() -> None:
    with GatewayClient("http://127.0.0.1:1") as client:
        assert client.gateway_url == "http://127.0.0.1:1"
    with pytest.raises(RuntimeError, match="closed"):
        client.health()


async def test_async_client_closes_with_its_block() -> None:
    async with AsyncGatewayClient("http://127.0.0.1:1/") as client:
        assert client.get_session_url("a:b") == "http://127.0.0.1:1/sessions/a%3Ab/v1"
    with pytest.raises(RuntimeError, match="closed"):
        await client.health()
