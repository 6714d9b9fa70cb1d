"""Connections: pings, age, streams at a time, sizes, compression."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_plugins.grpc.services.reflection import method_of
from support.grpc.calling import title
from support.grpc.over_http import STREAM, WHOLE, request
from support.grpc.stubs import channel, serving_grpc

from gateway.simulator import Simulator, SimulatorConfig

pytestmark = pytest.mark.slow

OK, TOO_LARGE = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED

LIMIT = 1024 * 1024

PINGING = {
    "keepalive_time_ms": 1_000,
    "keepalive_permit_without_calls": 1,
    "http2.max_pings_without_data": 0,
}


def ask(opened: grpc.Channel, prompt: str, **options: Any) -> grpc.StatusCode:
    """Ask for a title; return how that ended."""
    asked = request(model="sim", user_prompt=prompt, max_tokens=1)
    try:
        opened.unary_unary(WHOLE)(asked, timeout=20, **options)
    except grpc.RpcError as error:
        return error.code()
    return OK


async def test_a_client_that_pings_each_second_survives_a_long_prefill(tmp_path: Path) -> None:
    async with (
        Simulator(SimulatorConfig(ttft=4.5)) as sim,
        serving_grpc(f"{sim.url}/v1", tmp_path) as (_, port),
    ):
        with channel(port, use_local_subchannel_pool=1, **PINGING) as opened:
            assert await asyncio.to_thread(ask, opened, "Hello") is OK


def sizes(port: int) -> None:
    with channel(port) as opened:
        assert ask(opened, "a" * (LIMIT + 1)) is TOO_LARGE
        assert ask(opened, "Hello", compression=grpc.Compression.Gzip) is OK
        assert ask(opened, "a" * 2 * LIMIT, compression=grpc.Compression.Gzip) is TOO_LARGE


def no_reflection(port: int) -> None:
    """It is off unless it is asked for."""
    with channel(port) as opened, pytest.raises(grpc.RpcError) as refused:
        list(opened.stream_stream(method_of("v1"))(iter([b""]), timeout=10))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def one_at_a_time(port: int) -> None:
    """A second call on a connection waits for the first, by HTTP/2 and not by the gateway."""
    with channel(port) as opened:
        ended = threading.Event()
        asked = request(model="sim", user_prompt="Hello", max_tokens=20)
        first = opened.unary_stream(STREAM)(asked, timeout=20)
        next(first)

        def second() -> None:
            assert title(opened) is OK
            ended.set()

        waiting = threading.Thread(target=second)
        waiting.start()
        assert not any(ended.is_set() for _ in first)
        assert ended.wait(10)
        waiting.join()


def connections_end(port: int) -> None:
    """A connection ends at its age, and a stream that runs does not."""
    with channel(port) as opened:
        states: list[grpc.ChannelConnectivity] = []
        opened.subscribe(states.append)
        stream = opened.unary_stream(STREAM)(
            request(model="sim", user_prompt="Hello", max_tokens=50), timeout=20
        )
        assert len(list(stream)) > 5
        assert stream.code() is OK
        assert grpc.ChannelConnectivity.IDLE in states[1:]
        assert title(opened) is OK


async def test_connections_have_limits(tmp_path: Path) -> None:
    options = ["max_connection_age: 1", "max_streams: 1"]
    async with (
        Simulator(SimulatorConfig(itl=0.05)) as sim,
        serving_grpc(
            f"{sim.url}/v1",
            tmp_path,
            options=options,
            server_limits__max_body_bytes=str(LIMIT),
        ) as (_, port),
    ):
        for check in (sizes, no_reflection, one_at_a_time, connections_end):
            await asyncio.to_thread(check, port)
