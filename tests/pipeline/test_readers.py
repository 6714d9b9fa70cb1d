"""How a response passes through: unread, compressed, or under another content type."""

import asyncio
import gzip
import zlib
from collections.abc import Callable
from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import Call, Headers, Outcome, hookimpl, is_event_stream
from gateway.calls.observers import UNOBSERVED
from gateway.kernel import active
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import MAX_HELD_EVENT_BYTES, EventReader, StreamReader
from gateway.plugins.chains import Chains, Failures
from gateway.testing import (
    DONE,
    GatewayFor,
    RecordingCaller,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    sse,
)
from gateway.wire.injection import INJECTIONS, Stripper

pytestmark = pytest.mark.usefixtures("kernel_of_module")

ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
data = st.sampled_from([b"{}", b'{"a": "[DONE]"}', b"\xc3\xa9", b"", b"x" * 40])


@st.composite
def events(draw: st.DrawFn) -> list[bytes]:
    """Those of one stream, which has one kind of line end."""
    end = draw(ends)
    said = draw(st.lists(data, max_size=5))
    return [b"data: " + one + end * 2 for one in [*said, b"[DONE]"]]


def pieces(stream: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(cuts)]


@given(events(), st.lists(st.integers(0, 500), max_size=8))
def test_stream_reader_forwards_whole_events_and_holds_the_last(
    stream: list[bytes], places: list[int]
) -> None:
    reader = StreamReader(UNOBSERVED)
    passed, come = b"", b""
    for piece in pieces(b"".join(stream), places):
        come += piece
        passed += reader.feed(piece)
        assert come.startswith(passed)
        assert passed in (b"".join(stream[:count]) for count in range(len(stream)))
    assert passed == b"".join(stream[:-1])
    assert reader.close() == stream[-1]


def test_stream_reader_forwards_an_event_once_it_is_whole() -> None:
    reader = StreamReader(UNOBSERVED)
    assert reader.feed(b"data: 1\n") == b""
    assert reader.feed(b"\ndata: 2\n\nda") == b"data: 1\n\ndata: 2\n\n"
    assert reader.feed(b"ta: 3\n\n") == b"data: 3\n\n"
    assert reader.close() == b""


@pytest.mark.parametrize("behind", [b"{}", b'{"choices":[]}', b"data: 1", b": x\n"])
def test_event_reader_leaves_behind_the_end_what_came_behind_it(behind: bytes) -> None:
    call = Call(RecordingCaller(), method="POST", path="/v1/chat/completions")
    reader = EventReader(Exchange(call, Chains(Failures())), Stripper(INJECTIONS), 1 << 20)
    stream = b"data: {}\n\ndata: [DONE]\n\n" + behind

    assert reader.feed(stream) + reader.close() == stream


def test_event_reader_forwards_what_precedes_an_event_that_is_too_large() -> None:
    call = Call(RecordingCaller(), method="POST", path="/v1/chat/completions")
    exchange = Exchange(call, Chains(Failures(), kernel=active()))
    event = (
        b'data: {"id":"a","object":"c","created":1,"model":"m","choices":'
        b'[{"index":0,"delta":{"content":"x"},"logprobs":null,"finish_reason":null}]}\n\n'
    )
    large = b"data: " + b"x" * 300

    for count in (1, 2, 3):
        reader = EventReader(exchange, Stripper(INJECTIONS), 300)
        assert reader.feed(event * count + large) == event * count
        assert reader.feed(b"x") == large + b"x"
        assert reader.feed(event) + reader.close() == event


def test_stream_reader_forwards_a_large_event_in_pieces() -> None:
    reader = StreamReader(UNOBSERVED)
    large = b"data: " + b"x" * MAX_HELD_EVENT_BYTES
    assert reader.feed(large) == large
    assert reader.feed(b"\n\n") == b"\n\n"


def test_stream_reader_forwards_other_data_at_the_end() -> None:
    reader = StreamReader(UNOBSERVED)
    assert reader.feed(b"not events") == b""
    assert reader.close() == b"not events"


CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PLAIN = b'{"choices":[{"index":0,"message":{"content":"x"},"token_ids":[1]}],"usage":{}}'
BARE = PLAIN.replace(b"[1]", b"null")
CHOICE = {"index": 0, "delta": {"content": "x"}, "finish_reason": None, "token_ids": [1]}
EVENT = sse({"choices": [CHOICE]})
BARE_EVENT = EVENT.replace(b"[1]", b"null")


class Injecting:
    """Injects everything; keeps what its observer saw, and what was said of the call."""

    def __init__(self) -> None:
        self.streams: list[bool] = []
        self.failures: list[str] = []

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject(*INJECTIONS)

    @hookimpl
    def observe(self, call: Call) -> object:
        call.count_tokens()
        return self

    def started(self, status: int, headers: Headers) -> None:
        self.streams.append(is_event_stream(headers))

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self.failures += outcome.failures


def coded(body: bytes, coding: str, content_type: str = "application/json") -> bytes:
    head = f"{content_type}\r\ncontent-encoding: {coding}"
    return answer_of(body, content_type=head)


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_compressed_answer_reaches_the_caller_decoded_and_stripped(
    gateway_for: GatewayFor, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    async with ScriptedWorker(coded(compress(PLAIN), coding)) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json=CHAT)

    assert answer.content == BARE
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-length"] == str(len(BARE))


async def test_compressed_stream_reaches_the_caller_event_by_event(gateway_for: GatewayFor) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        packer = zlib.compressobj(wbits=31)
        await connection.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n"
            + packer.compress(EVENT)
            + packer.flush(zlib.Z_SYNC_FLUSH)
        )
        await go_on.wait()
        await connection.write(packer.compress(DONE) + packer.flush())

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        body = {**CHAT, "stream": True}
        async with live.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            chunks = answer.aiter_bytes()
            assert await anext(chunks) == BARE_EVENT
            go_on.set()
            assert b"".join([chunk async for chunk in chunks]) == DONE


@pytest.mark.parametrize("coding", ["Identity", "", "none", "identity, identity"])
async def test_coding_that_is_none_is_read_as_plain(gateway_for: GatewayFor, coding: str) -> None:
    async with ScriptedWorker(coded(PLAIN, coding)) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json=CHAT)
        asked = len(worker.requests)

    assert (answer.content, asked) == (BARE, 1)


async def gather(answer: httpx.Response, got: list[bytes]) -> None:
    async for part in answer.aiter_bytes():
        got += [part]


@pytest.mark.parametrize("done", [b"", DONE])
@pytest.mark.parametrize("held", [1, 2])
async def test_broken_stream_gives_the_ends_of_choices_that_waited_for_a_usage(
    gateway_for: GatewayFor, held: int, done: bytes
) -> None:
    ends = [
        sse({"choices": [{**CHOICE, "index": n, "finish_reason": "stop"}]}) for n in range(held)
    ]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
    cut = EVENT + b"".join(ends) + done + b"data: half of an ev"

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(head + cut)

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        body = {**CHAT, "stream": True, "n": held}
        got: list[bytes] = []
        async with live.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            with pytest.raises(httpx.RemoteProtocolError):
                await gather(answer, got)

    assert b"".join(got) == (EVENT + b"".join(ends)).replace(b"[1]", b"null")


async def test_answer_in_an_unknown_coding_is_asked_for_again_without_injections(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(coded(b"\x0b\x02\x80", "br")) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answers = [await live.client.post("/v1/chat/completions", json=CHAT) for _ in range(2)]
        asked = [b"return_token_ids" in request for request in worker.requests]

    assert asked == [True, False, False]
    assert [one.headers["content-encoding"] for one in answers] == ["br", "br"]
    assert "x-gateway-attempts" not in answers[0].headers


async def test_answer_that_is_not_in_its_coding_is_an_error(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(coded(PLAIN, "gzip")) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json=CHAT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_protocol_error")


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "application/json", "x"])
async def test_stream_under_another_content_type_is_carried_as_a_stream(
    gateway_for: GatewayFor, kind: str
) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n\r\nda" % kind.encode())
        await connection.write(EVENT[2:])
        await go_on.wait()
        await connection.write(EVENT + DONE)

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        body = {**CHAT, "stream": True}
        async with live.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            chunks = answer.aiter_bytes()
            assert await anext(chunks) == BARE_EVENT
            go_on.set()
            assert b"".join([chunk async for chunk in chunks]) == BARE_EVENT + DONE
            assert answer.headers["content-type"] == kind

    assert live.plugin(Injecting).streams == [True]


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("stream", [True, False])
async def test_plain_answer_is_stripped_whatever_was_asked_for_and_announced(
    gateway_for: GatewayFor, kind: str, stream: bool
) -> None:
    async with ScriptedWorker(answer_of(PLAIN, content_type=kind)) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json={**CHAT, "stream": stream})

    assert answer.content == BARE


@pytest.mark.parametrize("asked", [{}, {"stream": False}])
@pytest.mark.parametrize("body", [PLAIN, EVENT])
async def test_event_stream_that_nobody_asked_for_is_what_its_bytes_are(
    gateway_for: GatewayFor, asked: dict[str, object], body: bytes
) -> None:
    async with ScriptedWorker(answer_of(body, content_type="text/event-stream")) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json={**CHAT, **asked})

    assert answer.content == body.replace(b"[1]", b"null")
    assert answer.headers["content-type"] == "text/event-stream"
    assert live.plugin(Injecting).streams == [body is EVENT]


async def test_empty_answer_to_a_stream_stays_empty(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"")) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert (answer.status_code, answer.content) == (200, b"")


async def test_torn_event_loses_what_looks_injected_and_the_outcome_says_so(
    gateway_for: GatewayFor,
) -> None:
    torn = b'data: {"choices":[{"index":0,"token_ids":[1,2\n\n'
    async with ScriptedWorker(answer_of(torn + DONE, content_type="text/event-stream")) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert answer.content == torn.replace(b"[1,2", b"null") + DONE
    assert live.plugin(Injecting).failures == [
        "core: a response was no JSON, and what looked injected was taken out of it"
    ]
