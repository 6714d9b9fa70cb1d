"""The gateway's own service as its callers use it: stubs against a gateway in its own process."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import msgspec
import pytest
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import Code
from grpc_plugin.services.test_call import RECORDED, check
from support.callers.sampled_tokens import ASKS
from support.grpc.generations import heard
from support.grpc.stubs import PROTOS, channel, make_stubs, serving_grpc
from support.records.vllm_recordings import RecordedExchange
from support.workers.playing import Playing, naming, raw

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.simulator import Simulator
from gateway.testing import MESSAGES, ScriptedConnection, ScriptedWorker

BODY = {"model": "sim", "messages": [dict(MESSAGES[0])], "max_tokens": 12, "seed": 3, **ASKS}
STREAMED = {**BODY, "stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ModuleType]:
    return make_stubs(PROTOS / "gateway/v1/gateway.proto", tmp_path_factory.mktemp("stubs"))


def generation(messages: ModuleType) -> Any:
    """The same as STREAMED, typed."""
    request = messages.GenerateRequest(model="sim", sampling={"max_tokens": 12, "seed": 3})
    request.messages.messages.add(role="user").parts.add(text=MESSAGES[0]["content"])
    request.logprobs.sampled = True
    request.returned.token_ids = request.returned.prompt_token_ids = True
    return request


class Heard(msgspec.Struct):
    """What each door has said."""

    plain: Sequence[Any]
    streamed: Sequence[Any]
    typed: Sequence[Any]
    bare: Sequence[Any]
    models: Any


def ask_all(port: int, messages: ModuleType, stubs: ModuleType) -> Heard:
    def call(body: object) -> list[Any]:
        data = msgspec.json.encode(body)
        request = messages.JsonRequest(path="/v1/chat/completions", body=data)
        return list(stub.Call(request, timeout=20))

    with channel(port) as opened:
        stub = stubs.GatewayServiceStub(opened)
        typed = list(stub.Generate(generation(messages), timeout=20))
        bare = generation(messages)
        bare.ClearField("logprobs")
        bare.ClearField("returned")
        text = list(stub.Generate(bare, timeout=20))
        models = stub.ListModels(messages.ListModelsRequest(), timeout=20)
        return Heard(call(BODY), call(STREAMED), typed, text, models)


async def test_all_doors_say_the_same_and_are_captured_alike(
    simulator: Simulator, compiled: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    async with serving_grpc(simulator.url, tmp_path, "trace_capture") as (process, port):
        found = await asyncio.to_thread(ask_all, port, *compiled)
        async with httpx.AsyncClient(base_url=process.url) as client:
            plain = await client.post("/v1/chat/completions", json=BODY)
            streamed = await client.post("/v1/chat/completions", json=STREAMED)
        async with AsyncGatewayClient(process.url) as trainer:
            traces = await trainer.query_traces()
    assert [one.done for one in found.plain] == [True]
    assert nameless(found.plain[0].json) == nameless(plain.content)
    events = [one.removeprefix(b"data: ") for one in streamed.content.split(b"\n\n") if one]
    assert [nameless(one.json) for one in found.streamed[:-1]] == [*map(nameless, events[:-1])]
    assert (found.streamed[-1].json, found.streamed[-1].done) == (b"", True)
    compare(found.typed, msgspec.json.decode(plain.content))
    [text] = heard(found.bare).values()
    assert (text.text, text.ids, text.logprobs) == (heard(found.typed)[0].text, [], [])
    assert [one.id for one in found.models.models] == ["sim"]
    check_traces(traces)


def nameless(data: bytes) -> Any:
    """The JSON without what is new in each response."""
    found = msgspec.json.decode(data)
    return {name: value for name, value in found.items() if name not in ("id", "created")}


def compare(events: Sequence[Any], plain: Any) -> None:
    """A generation, and a plain response of the same call over HTTP."""
    [choice] = plain["choices"]
    [said] = heard(events).values()
    assert said.text == choice["message"]["content"]
    assert said.ids == choice["token_ids"]
    assert said.logprobs == [one["logprob"] for one in choice["logprobs"]["content"]]
    assert said.finish == [(choice["finish_reason"], choice["stop_reason"])]
    assert list(events[0].start.prompt_token_ids) == plain["prompt_token_ids"]
    usage = events[-1].usage
    assert usage.prompt_tokens == plain["usage"]["prompt_tokens"]
    assert usage.completion_tokens == plain["usage"]["completion_tokens"]


def check_traces(traces: Sequence[Trace]) -> None:
    """All six calls have been recorded with the same tokens, asked for or not."""
    assert len(traces) == 6
    assert {trace.verdict for trace in traces} == {"COMPLETE"}
    seen = [
        (trace.prompt_token_ids, [(one.token_ids, one.logprobs) for one in trace.choices])
        for trace in traces
    ]
    assert seen[0][1][0][0]
    assert all(one == seen[0] for one in seen)


SOME = [one for one in RECORDED if one.method == "POST" and one.path.startswith("/v1/")][::8]
"""Recorded exchanges; tests/grpc_plugin/services has all of them, without a port."""


def ask(messages: ModuleType, stub: Any, exchange: RecordedExchange) -> tuple[Code, list[bytes]]:
    """Make a recorded request through `Call`; return the code and the messages."""
    request = messages.JsonRequest(path=exchange.path, body=exchange.request_body)
    stream, found = stub.Call(request, timeout=20), list[bytes]()
    with suppress(grpc.RpcError):
        found.extend(one.json for one in stream)
    return Code(stream.code().value[0]), found


async def test_recorded_responses_pass_the_port_byte_for_byte(
    compiled: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    playing, (messages, stubs) = Playing(), compiled
    async with ScriptedWorker(playing.script) as worker:
        async with serving_grpc(worker.url, tmp_path) as (_, port):
            with channel(port) as opened:
                stub = stubs.GatewayServiceStub(opened)
                for exchange in SOME:
                    playing.pieces, playing.breaks_off = [raw(exchange)], bool(exchange.cut_short)
                    with naming(exchange):
                        check(exchange, *await asyncio.to_thread(ask, messages, stub, exchange))


async def test_an_aborted_call_ends_as_cancelled(
    compiled: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    messages, stubs = compiled
    asked = asyncio.Event()

    async def silent(connection: ScriptedConnection) -> None:
        await connection.read_request()
        asked.set()
        await connection.wait_closed()

    def generate(stub: Any) -> grpc.RpcError:
        request = generation(messages)
        request.meta.request_id = "mine"
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Generate(request, timeout=20))
        return caught.value

    async with ScriptedWorker(silent) as worker, serving_grpc(worker.url, tmp_path) as (_, port):
        with channel(port) as opened:
            stub = stubs.GatewayServiceStub(opened)
            running = asyncio.create_task(asyncio.to_thread(generate, stub))
            await asked.wait()
            abort = messages.AbortRequest(request_id="mine")
            answer = await asyncio.to_thread(stub.Abort, abort, timeout=20)
            error: Any = await running
    assert answer.aborted
    assert error.code() is grpc.StatusCode.CANCELLED
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert reason_of(details) == "ABORTED"


def reason_of(details: bytes) -> str:
    """The reason in the details of a status."""
    kinds = Messages()
    status = kinds.type("google.rpc.Status").FromString(details)
    reason: str = kinds.type("google.rpc.ErrorInfo").FromString(status.details[0].value).reason
    return reason
