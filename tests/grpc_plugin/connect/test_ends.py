"""Callers of Connect that leave, wait no longer, or do not read."""

import asyncio
import json

import pytest
from support.callers.raw_client import head_of
from support.grpc.over_http import (
    STREAM,
    WHOLE,
    OverHttp,
    frame,
    frames,
    json_of,
    post,
    request,
    trailers,
)
from support.plugins.recording_plugin import until

from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, sse

EVENTS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: begins\n\n"
)
ASKED = {"model": "m", "userPrompt": "Hello"}


def event(text: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}}]})


async def tell_and_wait(connection: ScriptedConnection) -> None:
    """Begin a stream, and wait until the gateway closes it."""
    await connection.read_request()
    await connection.write(EVENTS + event("Hi"))
    await connection.wait_closed()


async def tell_for_ever(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.write(EVENTS)
    while True:
        await connection.write(event("a" * 64_000))


@pytest.mark.parametrize("kind", ["connect+json", "grpc-web+json"])
async def test_a_deadline_ends_the_call(kind: str, gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(tell_and_wait) as worker:
        live = await gateway_for(OverHttp, workers=[worker.url])
        told = {"connect_timeout_ms": "300", "grpc_timeout": "300m"}
        answer = await post(live.client, STREAM, kind, frame(json_of(ASKED)), **told)
        (_, first), (_, end) = frames(answer.content)
        assert json.loads(first)["deltaText"] == "Hi"
        if kind == "grpc-web+json":
            assert trailers(end)["grpc-status"] == "4"
        else:
            assert json.loads(end)["error"]["code"] == "deadline_exceeded"
        async with asyncio.timeout(30):
            await worker.connections[0].wait_closed()
        assert not live.gateway.calls_in_flight


async def test_a_deadline_of_zero_ends_a_unary_call(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(tell_and_wait) as worker:
        live = await gateway_for(OverHttp, workers=[worker.url])
        answer = await post(live.client, WHOLE, "json", json_of(ASKED), connect_timeout_ms="0")
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


async def test_a_bad_deadline_is_an_invalid_argument(gateway_for: GatewayFor) -> None:
    live = await gateway_for(OverHttp)
    answer = await post(live.client, WHOLE, "json", json_of(ASKED), connect_timeout_ms="soon")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_a_caller_that_leaves_ends_its_call(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(tell_and_wait) as worker:
        live = await gateway_for(OverHttp, workers=[worker.url])
        headers = {"content-type": "application/connect+json"}
        async with live.client.stream(
            "POST", STREAM, content=frame(json_of(ASKED)), headers=headers
        ) as answer:
            assert await anext(answer.aiter_bytes())
        async with asyncio.timeout(30):
            await worker.connections[0].wait_closed()
        await until(lambda: not live.gateway.calls_in_flight)


async def test_a_caller_that_does_not_read_stops_the_worker_and_is_cut(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(tell_for_ever) as worker:
        live = await gateway_for(OverHttp, workers=[worker.url], timeouts={"idle": 0.5})
        body = frame(request(model="m", user_prompt="Hello"))
        headers = [
            (b"content-type", b"application/connect+proto"),
            (b"content-length", b"%d" % len(body)),
        ]
        reader, writer = await asyncio.open_connection(*live.server.address, limit=1024)
        writer.write(head_of("POST", STREAM, headers) + body)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        async with asyncio.timeout(30):
            await worker.connections[0].wait_closed()
        await until(lambda: not live.gateway.calls_in_flight)
        await until(lambda: not live.server.server_state.connections)
        writer.close()
