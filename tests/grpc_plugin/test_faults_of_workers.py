"""Faults of the server of old, numbered as in the contract: what workers do, and what is told."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.grpc.asking import Caller, Ended, chat
from support.grpc.stage import (
    EVENTS,
    FINISH,
    USAGE,
    Play,
    Stage,
    chunk,
    delta,
    refused,
    staged,
    streamed,
    whole,
)

from gateway.testing import DONE, ScriptedConnection, sse

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "canary-5d1f"

LONG = "x" * 1024 * 1024


def error(message: str, **more: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": "t", **more}}).encode()


async def hangs(connection: ScriptedConnection) -> None:
    await connection.wait_closed()


async def slow(connection: ScriptedConnection) -> None:
    """Send a token each tenth of a second: longer than any of the gateway's timeouts."""
    await connection.write(EVENTS)
    for _ in range(10):
        await connection.write(chunk(sse(delta("a"))))
        await asyncio.sleep(0.1)
    await connection.write(chunk(sse(FINISH, USAGE) + DONE) + chunk(b""))


async def stops(connection: ScriptedConnection) -> None:
    await connection.write(EVENTS + chunk(sse(delta("a"), delta("b"))))
    await connection.wait_closed()


async def resets(connection: ScriptedConnection) -> None:
    await connection.write(EVENTS + chunk(sse(delta("a"), delta("b"))))
    await asyncio.sleep(0.05)
    connection.reset()


async def dribbles(connection: ScriptedConnection) -> None:
    told = f"data:{json.dumps(delta('x'))}\r\n\r\n: a comment\n\nevent: message\nid: 1\n".encode()
    lines = json.dumps(delta("y"), indent=1).split("\n")
    told += "".join(f"data: {line}\n" for line in lines).encode()
    told += f"\ndata:{json.dumps(FINISH)}\r\rdata: {json.dumps(USAGE)}\n\ndata: [DONE]".encode()
    await connection.dribble(streamed(told))


PLAYS: dict[str, Play] = {
    "429": refused("429 No", error(f"slow down {CANARY * 300}"), "retry-after: 3"),
    "400": refused("400 No", error("temperature is wrong", param="temperature")),
    "422": refused("422 No", error("wrong")),
    "length": refused("400 No", error("the maximum context length is 8", code=400)),
    "401": refused("401 No", error("bad key")),
    "403": refused("403 No", error("no")),
    "404": refused("404 No", error("no such model", code="model_not_found")),
    "408": refused("408 No"),
    "409": refused("409 No", error("a conflict")),
    "413": refused("413 No", error("too large")),
    "500": refused("500 No", b"Traceback " + CANARY.encode()),
    "502": refused("502 No"),
    "503": refused("503 No", error("loading"), "retry-after: 2"),
    "504": refused("504 No"),
    "hang": hangs,
    "slow": slow,
    "stop": stops,
    "reset": resets,
    "dribble": dribbles,
    "good": whole("Hel", "lo"),
    "engine": streamed(sse(delta("a"), {"error": {"message": "CUDA", "code": 500}}) + DONE),
    "unfinished": streamed(sse(delta("a"), delta("b"))),
    "long": whole(LONG),
    "no-json": streamed(sse(delta("a"), f"{{{CANARY}")),
    "no-choices": streamed(sse(delta("a"), {"object": CANARY})),
    "wrong": streamed(sse({"choices": [{"index": "one", "delta": 3}]})),
    "no-http": b"SSH-2.0-server\r\n\r\n",
    "odd-reason": refused("400 No", error("no", code=f"a {CANARY} code")),
    "foreign": refused("400 No", error("語" * 4_000, param="語" * 4_000)),
    "lone": refused("400 No", error("half \ud83d of a pair")),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(
        dict(PLAYS),
        tmp_path_factory.mktemp("stage"),
        timeouts__first_byte="0.8",
        timeouts__idle="0.8",
        log_level="debug",
    ) as opened:
        yield opened


async def ask(stage: Stage, model: str, **more: object) -> Ended:
    with Caller(stage.port) as caller:
        return await asyncio.to_thread(caller.ask, chat(model, f"say {CANARY}", **more))


async def title(stage: Stage, model: str, **more: object) -> Ended:
    with Caller(stage.port) as caller:
        return await asyncio.to_thread(caller.title, chat(model, f"say {CANARY}", **more))


ROWS = (
    ("429", "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED", "3000"),
    ("400", "INVALID_ARGUMENT", "INVALID_REQUEST", "-1"),
    ("422", "INVALID_ARGUMENT", "INVALID_REQUEST", "-1"),
    ("length", "INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED", "-1"),
    ("401", "UNAUTHENTICATED", "INVALID_API_KEY", "-1"),
    ("403", "PERMISSION_DENIED", "PERMISSION_DENIED", "-1"),
    ("404", "NOT_FOUND", "MODEL_NOT_FOUND", "-1"),
    ("408", "DEADLINE_EXCEEDED", "UPSTREAM_TIMEOUT", "-1"),
    ("409", "ABORTED", "CONFLICT", "-1"),
    ("413", "RESOURCE_EXHAUSTED", "BODY_TOO_LARGE", "-1"),
    ("500", "INTERNAL", "UPSTREAM_ERROR", "-1"),
    ("502", "UNAVAILABLE", "UPSTREAM_ERROR", "1000"),
    ("503", "UNAVAILABLE", "NO_WORKER", "2000"),
    ("504", "DEADLINE_EXCEEDED", "UPSTREAM_TIMEOUT", "-1"),
    ("hang", "DEADLINE_EXCEEDED", "UPSTREAM_FIRST_BYTE_TIMEOUT", "-1"),
    ("no-http", "UNAVAILABLE", "UPSTREAM_PROTOCOL_ERROR", "1000"),
)


@pytest.mark.parametrize(("model", "code", "reason", "pushback"), ROWS)
async def test_fault_1_a_failure_of_the_worker_has_its_own_code(
    stage: Stage, model: str, code: str, reason: str, pushback: str
) -> None:
    for found in await asyncio.gather(ask(stage, model), title(stage, model)):
        assert (found.code, found.reason, found.pushback) == (code, reason, pushback)
        assert found.request_id == found.facts["request_id"]
        assert found.details["ErrorInfo"].domain == "llm-call-gateway"
        assert ("RetryInfo" in found.details) == (pushback != "-1")
        assert found.size < 4_096


async def test_fault_2_messages_are_short_and_details_typed(stage: Stage) -> None:
    found = await title(stage, "429")
    assert found.message.startswith("slow down ")
    assert len(found.message) <= 512
    assert found.details["QuotaFailure"].violations[0].subject
    assert found.retry == 3
    found = await title(stage, "500")
    assert found.message == "the worker answered with status 500"
    found = await ask(stage, "400")
    assert found.details["BadRequest"].field_violations[0].field == "temperature"
    assert (await ask(stage, "404")).details["ResourceInfo"].resource_name == "404"


async def test_fault_2_messages_in_any_script_fit_into_metadata(stage: Stage) -> None:
    found = await ask(stage, "foreign")
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert set(found.message) == {"語"}
    assert len(found.message.encode()) * 3 + found.size < 4_096
    assert (await ask(stage, "odd-reason")).reason == "INVALID_REQUEST"
    found = await ask(stage, "lone")
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_fault_3_a_stream_longer_than_all_timeouts_ends_well(stage: Stage) -> None:
    found = await ask(stage, "slow")
    assert (found.code, found.text) == ("OK", "a" * 10)
    assert found.seconds > 0.8


async def test_fault_4_streams_count_tokens(stage: Stage) -> None:
    last = (await ask(stage, "good")).chunks[-1]
    assert (last.promptTokens, last.completionTokens, last.totalTokens) == (7, 5, 12)
    assert stage.bodies["good"]["stream_options"] == {"include_usage": True}


async def test_fault_5_chunks_have_an_index_and_latencies(stage: Stage) -> None:
    *chunks, last = (await ask(stage, "slow")).chunks
    assert [one.index for one in (*chunks, last)] == [0] * (len(chunks) + 1)
    assert last.latencyMs > 800 > chunks[0].latencyMs
    assert [one.latencyMs for one in chunks[1:]] == [0] * (len(chunks) - 1)
    assert [one.finishReason for one in chunks] == [""] * len(chunks)
    assert (last.finishReason, last.deltaText) == ("stop", "")


async def test_fault_6_a_zero_that_is_set_is_sent(stage: Stage) -> None:
    await ask(stage, "good", temperature=0.0, top_p=0.0, max_tokens=0)
    sent = stage.bodies["good"]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0, 0, 0)
    await ask(stage, "good")  # as a stub of old sends a zero: not at all
    assert {"temperature", "top_p", "max_tokens"}.isdisjoint(stage.bodies["good"])


async def test_fault_7_an_error_in_a_stream_is_an_error(stage: Stage) -> None:
    found = await ask(stage, "engine")
    assert (found.code, found.reason, found.text) == ("UNAVAILABLE", "ENGINE_ERROR", "a")
    assert found.pushback == "-1"
    assert found.facts["messages_sent"] == "1"


@pytest.mark.parametrize(
    ("model", "code", "reason"),
    [
        ("unfinished", "UNAVAILABLE", "UPSTREAM_CLOSED"),
        ("reset", "UNAVAILABLE", "UPSTREAM_CLOSED"),
        ("stop", "DEADLINE_EXCEEDED", "UPSTREAM_IDLE_TIMEOUT"),
    ],
)
async def test_fault_8_a_stream_that_breaks_off_is_an_error_after_its_text(
    stage: Stage, model: str, code: str, reason: str
) -> None:
    found = await ask(stage, model)
    assert (found.code, found.reason, found.text) == (code, reason, "ab")
    assert found.pushback == "-1"


async def test_fault_9_an_event_of_a_mebibyte_passes(stage: Stage) -> None:
    assert (await ask(stage, "long")).text == LONG


async def test_fault_10_all_framings_pass_split_at_any_byte(stage: Stage) -> None:
    found = await ask(stage, "dribble")
    assert (found.code, found.text) == ("OK", "xy")
    assert found.chunks[-1].totalTokens == 12


@pytest.mark.parametrize("model", ["no-json", "no-choices", "wrong"])
async def test_fault_20_nonsense_in_a_stream_is_the_workers_fault(stage: Stage, model: str) -> None:
    found = await ask(stage, model)
    assert (found.code, found.reason) == ("UNAVAILABLE", "UPSTREAM_PROTOCOL_ERROR")
    assert CANARY not in found.message
    assert (await title(stage, model)).reason == "UPSTREAM_PROTOCOL_ERROR"


async def test_fault_19_no_line_of_the_log_has_a_prompt(stage: Stage) -> None:
    await ask(stage, "good")
    assert b"gRPC call" in stage.process.log
    assert CANARY.encode() not in stage.process.log
    assert b"Traceback" not in stage.process.log
