"""Faults of the server of old, numbered as in the contract, that show without a port."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.grpc.details import packed
from gateway_plugins.grpc.edge.answers import Answer, Asked
from gateway_plugins.grpc.rpcs import Rpcs
from gateway_plugins.grpc.services.llm.methods import Chat
from gateway_plugins.grpc.services.llm.request import Mapping
from gateway_plugins.grpc.status import MAX_MESSAGE, Code, Status, clipped
from hypothesis import given
from hypothesis import strategies as st
from support.grpc.asking import chat
from support.grpc.in_process import MESSAGES, KeptMessages
from support.grpc.stage import FINISH, delta, refused, streamed, whole
from support.runtime.boxes import box
from support.runtime.tiny_engines import tiny

from gateway import Call, CallError, Worker, hookimpl
from gateway.testing import DONE, GatewayFor, Live, ScriptedWorker, entry, sse

CANARY = "canary-77f0"

NEVER_READY = [sys.executable, "-c", "import time; time.sleep(600)"]

STREAM = Chat(MESSAGES, Mapping(), streams=True)


async def carried(live: Live, model: str = "m", method: Any = STREAM) -> tuple[Status, str]:
    """Carry an RPC; return how it ended, and its text."""
    context = KeptMessages(STREAM.name, chat(model))
    status, sent = await Rpcs(live.gateway, log_calls=True).carry(method, context)
    assert sent == len(context.sent)
    chunk = MESSAGES.type("llm.v1.ChatCompletionChunkResponse")
    return status, "".join(chunk.FromString(data).deltaText for data in context.sent)


class Broken:
    """An Answer that breaks in `at`, as a mistake in the code would."""

    finish_reason = ""
    prompt_tokens = completion_tokens = 0

    def __init__(self, at: str) -> None:
        self._at = at

    def __getattr__(self, name: str) -> Any:
        def method(*_: object) -> list[bytes]:
            if name == self._at:
                raise RuntimeError(CANARY)
            return []

        return method


class BrokenMethod:
    """A Method that breaks in `at`."""

    path = STREAM.path
    name = STREAM.name

    def __init__(self, at: str) -> None:
        self._at = at

    def read(self, message: bytes) -> Asked:
        if self._at == "read":
            raise RuntimeError(CANARY)
        return STREAM.read(message)

    def answer(self, started: float) -> Answer:
        return Broken(self._at)


@pytest.mark.parametrize("at", ["read", "expect", "begin", "event", "take", "finish"])
async def test_fault_22_an_exception_fails_one_call(
    gateway_for: GatewayFor, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedWorker(whole("a")) as worker:
        live = await gateway_for(workers=[worker.url])
        status, _ = await carried(live, method=BrokenMethod(at))
        assert (status.code, status.reason) == (Code.INTERNAL, "internal_error")
        assert status.facts["request_id"]
        assert CANARY not in packed(MESSAGES, status).decode("latin-1")
        assert any("the gateway failed" in one.message for one in caplog.records)
        assert not live.gateway.proxy.in_flight
        status, text = await carried(live)
        assert (status.code, text) == (Code.OK, "a")


async def test_fault_17_calls_share_connections_to_the_worker(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(whole("a")) as worker:
        live = await gateway_for(workers=[worker.url])
        places = asyncio.Semaphore(20)

        async def one() -> Code:
            async with places:
                return (await carried(live))[0].code

        assert await asyncio.gather(*(one() for _ in range(100))) == [Code.OK] * 100
        assert len(worker.connections) <= 20


async def test_breaker_keeps_calls_away_from_a_worker(gateway_for: GatewayFor) -> None:
    breaker = entry("circuit_breaker", consecutive_failures=2, max_ejected_share=1.0)
    async with ScriptedWorker(refused("502 No")) as worker:
        live = await gateway_for(breaker, workers=[worker.url])
        found = [(await carried(live))[0] for _ in range(3)]
        assert [(one.code, one.reason) for one in found] == [
            (Code.UNAVAILABLE, "upstream_error"),
            (Code.UNAVAILABLE, "upstream_error"),
            (Code.UNAVAILABLE, "no_worker"),
        ]
        assert found[2].retry_after is not None
        assert len(worker.requests) == 2


async def test_cold_start_tells_when_to_come_back(gateway_for: GatewayFor, tmp_path: Path) -> None:
    slow = tiny("a", command=NEVER_READY, load_time=30)
    live = await gateway_for(box(tmp_path, slow, hold=0.0), workers=())
    status, _ = await carried(live, "a")
    assert (status.code, status.reason) == (Code.UNAVAILABLE, "model_cold_start")
    assert 25 <= int(status.facts["estimated_ready_in_seconds"]) <= 30
    assert status.retry_after is not None
    assert status.retry_after >= 25


class Waits:
    """Sends its caller comments before a worker is chosen, as plugins do that let calls wait."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        for _ in range(3):
            call.keep_alive()
            await asyncio.sleep(0)
        if call.model == "refused":
            raise CallError("the model is not loaded", code="model_cold_start")
        return workers


@pytest.mark.parametrize(
    ("answer", "model", "code", "reason", "text"),
    [
        (whole("a"), "m", Code.OK, "", "a"),
        (refused("404 No", b'{"error":{"message":"no"}}'), "m", Code.NOT_FOUND, "not_found", ""),
        (refused("400 No", b'{"error":"no"}'), "m", Code.INVALID_ARGUMENT, "invalid_request", ""),
        (whole("a"), "refused", Code.INTERNAL, "model_cold_start", ""),
    ],
)
async def test_comments_while_a_call_waits_change_nothing(
    gateway_for: GatewayFor, answer: bytes, model: str, code: Code, reason: str, text: str
) -> None:
    async with ScriptedWorker(answer) as worker:
        live = await gateway_for(Waits, workers=[worker.url])
        status, found = await carried(live, model)
    assert (status.code, status.reason, found) == (code, reason, text)


async def test_comments_within_a_stream_are_passed_over(gateway_for: GatewayFor) -> None:
    body = b": hi\n\n" + sse(delta("a")) + b": ping\n\n" + sse(delta("b"), FINISH) + DONE
    async with ScriptedWorker(streamed(body)) as worker:
        live = await gateway_for(workers=[worker.url])
        status, found = await carried(live)
    assert (status.code, found) == (Code.OK, "ab")


@given(st.text())
def test_no_message_takes_more_than_its_share_of_metadata(text: str) -> None:
    found = clipped(text, MAX_MESSAGE)
    assert text.encode(errors="replace").decode().startswith(found)
    plain = sum(" " <= one <= "~" and one != "%" for one in found)
    assert plain + 3 * (len(found.encode()) - plain) <= MAX_MESSAGE
