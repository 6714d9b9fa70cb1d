"""What no caller should send: each gets a short refusal, and no text of it is in the log."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
import pytest_asyncio
from gateway_plugins.grpc.services.llm.request import Mapping, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.grpc.asking import MESSAGES, Caller, chat
from support.grpc.raw_http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    RawHttp2,
    frame,
    message,
    request_head,
)
from support.grpc.stage import Stage, staged, whole

from gateway import BadRequest

IN_MODULE = pytest.mark.asyncio(loop_scope="module")

CANARY = b"canary-2ab7"

LIMIT = 100_000

GOOD = chat("good").SerializeToString()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """A gateway; whatever a test sends, in the end nothing of it is in the log."""
    async with staged(
        {"good": whole("a")},
        tmp_path_factory.mktemp("bad"),
        "metrics",
        server_limits__max_body_bytes=str(LIMIT),
        timeouts__idle="1.0",
        log_level="debug",
    ) as opened:
        begun = len(opened.process.log)
        yield opened
        log = opened.process.log[begun:]
        assert b"gRPC call" in log
        assert CANARY not in log
        assert b"Traceback" not in log
        grave = rb'^.*"level":"(?:warning|error|critical)".*$'
        assert re.findall(grave, log, re.MULTILINE) == []
        assert all(line.startswith(b"{") for line in log.splitlines())


async def serves(stage: Stage) -> None:
    """Check that a call succeeds, and that nothing else is in flight."""
    with Caller(stage.port) as caller:
        assert (await asyncio.to_thread(caller.ask, chat("good"))).code == "OK"
    async with httpx.AsyncClient() as client, asyncio.timeout(30):
        while True:
            text = (await client.get(f"{stage.process.url}/metrics")).text
            found = re.search(r"^gateway_grpc_calls_in_flight(?:{.*})? (\S+)$", text, re.MULTILINE)
            if found is not None and not float(found[1]):
                return
            await asyncio.sleep(0.02)


async def sent(stage: Stage, *frames: bytes) -> list[int]:
    """Send `frames` on a connection; return the kinds of frames by which the stream ended."""
    async with RawHttp2(stage.port) as connection, asyncio.timeout(30):
        await connection.begin()
        for one in frames:
            await connection.write(one)
        return await connection.end_of_stream()


@IN_MODULE
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: " + CANARY + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00" + CANARY * 20,
        PREFACE + CANARY * 100,
        PREFACE + frame(DATA, 0, 1, CANARY),
        PREFACE + frame(HEADERS, 4, 1, b"\xff" * 40 + CANARY),
        b"",
    ],
)
async def test_garbage_on_the_port(stage: Stage, data: bytes) -> None:
    async with RawHttp2(stage.port) as connection:
        await connection.write(data)
    await serves(stage)


@IN_MODULE
@pytest.mark.parametrize(
    "request_",
    [
        b"\xff" * 50 + CANARY,
        b"\x0a\xff\xff\xff\xff\x0f" + CANARY,  # a length beyond the end
        b"\x12\x02\xff\xfe",  # a model that is not UTF-8
        b"\x30\x01\x12\x04good",  # `temperature` as a varint: an unknown field
        b"",
    ],
)
async def test_messages_that_are_no_requests(stage: Stage, request_: bytes) -> None:
    with Caller(stage.port) as caller:
        found = await asyncio.to_thread(caller.ask, request_)
    expected = "OK" if b"good" in request_ else "INVALID_ARGUMENT"
    assert found.code == expected
    assert len(found.message) < 200
    await serves(stage)


@IN_MODULE
async def test_unknown_fields_are_passed_over(stage: Stage) -> None:
    with Caller(stage.port) as caller:
        found = await asyncio.to_thread(caller.ask, GOOD + b"\xfa\x3e\x05" + CANARY[:5])
    assert found.code == "OK"


@IN_MODULE
@pytest.mark.parametrize("gzipped", [False, True])
async def test_message_above_the_limit(stage: Stage, *, gzipped: bool) -> None:
    options = {"default_compression_algorithm": 2} if gzipped else {}
    with Caller(stage.port, max_send_message_length=-1, **options) as caller:
        large = chat("good", CANARY.decode() * 2_000_000)
        for _ in range(3):
            memory = stage.process.memory()
            found = await asyncio.to_thread(caller.ask, large)
            assert (found.code, len(found.message) < 200) == ("RESOURCE_EXHAUSTED", True)
            growth = stage.process.memory() - memory
            if growth < 16 * 1024 * 1024:  # another time it may be the allocator's
                break
    assert growth < 16 * 1024 * 1024
    await serves(stage)


@IN_MODULE
@pytest.mark.parametrize(
    "line",
    [
        (b"x-session-id", b"\xff\xfe" + CANARY),
        (b"x-\xff", CANARY),
        (b"x-tag", b"a\r\nx-injected: " + CANARY),
        (b"x-tag", b"\x7f\x00" + CANARY),
        (b"x-tag-bin", b"!!!!" + CANARY),
        (b"grpc-timeout", CANARY),
    ],
)
async def test_metadata_that_is_none(stage: Stage, line: tuple[bytes, bytes]) -> None:
    asked = len(stage.worker.requests)
    kinds = await sent(stage, request_head(1, line), message(1, GOOD))
    assert kinds[0] in (HEADERS, RST_STREAM, GOAWAY)
    assert len(stage.worker.requests) == asked
    await serves(stage)


@IN_MODULE
async def test_metadata_above_the_limit(stage: Stage) -> None:
    asked = len(stage.worker.requests)
    head = request_head(1, repeated=(b"x-tag", CANARY), times=4_000)  # one byte for each
    assert await sent(stage, head, message(1, GOOD))
    assert len(stage.worker.requests) == asked
    await serves(stage)


@IN_MODULE
@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, END_STREAM, 1, b""),
        frame(DATA, END_STREAM, 1, b"\0\0\0\0\xff" + CANARY),
        frame(DATA, END_STREAM, 1, b"\x07\0\0\0\x0b" + CANARY),
        frame(DATA, END_STREAM, 1, b"\x01\0\0\0\x0b" + CANARY),
        frame(DATA, 0, 1, b"\0\0\0\0\xff" + CANARY),  # and nothing more: `timeouts.idle`
    ],
)
async def test_frames_that_hold_no_message(stage: Stage, data: bytes) -> None:
    assert HEADERS in await sent(stage, request_head(1), data)
    await serves(stage)


@IN_MODULE
async def test_of_several_messages_the_first_counts(stage: Stage) -> None:
    asked = len(stage.worker.requests)
    await sent(stage, request_head(1), message(1, GOOD, 0) + message(1, CANARY))
    assert len(stage.worker.requests) == asked + 1
    await serves(stage)


@IN_MODULE
async def test_unknown_method(stage: Stage) -> None:
    with Caller(stage.port) as caller:
        made = caller.channel.unary_unary(f"/llm.v1.LlmService/{CANARY.decode()}")
        call = made.future(b"")
        await asyncio.to_thread(call.exception)
    assert call.code().name == "UNIMPLEMENTED"


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200))
def test_any_message_is_taken_or_refused(data: bytes) -> None:
    """`read` and the body raise nothing but what becomes INVALID_ARGUMENT."""
    with contextlib.suppress(BadRequest):
        body = read(MESSAGES, data, Mapping("m"), streams=True).body()
        assert msgspec.json.decode(body)["stream"] is True
