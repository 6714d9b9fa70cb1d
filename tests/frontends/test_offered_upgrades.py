"""Offers of another protocol: whatever is not upgraded is HTTP/1.1 of the length it announces."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.callers.raw_client import Headers, RawClient, head_of
from support.callers.seen_request import Seen, seen
from support.gateways.event_loop import Stage
from support.plugins.recording_plugin import PATIENCE, until
from support.records.reference_requests import Request, read_all, requests
from support.records.worker_answers import cut, places

from gateway.config import Config, Worker
from gateway.testing import NO_PROBES, ScriptedWorker, answer_of, live

CHAT = "/v1/chat/completions"
BODY = b'{"model": "m", "messages": []}'
H2C = [
    (b"Connection", b"Upgrade, HTTP2-Settings"),
    (b"HTTP2-Settings", b"AAEAAEAAAAIAAAAB"),
    (b"Upgrade", b"h2c"),
]
BY_LENGTH = head_of("POST", CHAT, [*H2C, (b"content-length", b"%d" % len(BODY))]) + BODY
IN_CHUNKS = head_of(
    "POST", CHAT, [*H2C, (b"transfer-encoding", b"chunked")]
) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
HANDSHAKE: Headers = [
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]
HOP = {b"upgrade", b"http2-settings", b"connection"}


def before(worker: ScriptedWorker) -> Config:
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),))


def carried(worker: ScriptedWorker) -> list[Seen]:
    return [seen(request) for request in worker.requests]


@pytest.mark.parametrize("apart", [False, True], ids=["one packet", "two packets"])
@pytest.mark.parametrize("request_", [BY_LENGTH, IN_CHUNKS], ids=["length", "chunks"])
async def test_declined_upgrade_leaves_the_request_whole(request_: bytes, *, apart: bool) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            for _ in range(2):  # the connection is kept
                end = request_.index(b"\r\n\r\n") + 4 if apart else len(request_)
                await client.send(request_[:end])
                if apart:
                    await gateway.client.get("/health")  # the head is read by then
                await client.send(request_[end:])
                assert (await client.answer()).status == 200
    assert [(one.method, one.target, one.body) for one in carried(worker)] == [
        ("POST", CHAT, BODY)
    ] * 2
    assert not any(name in HOP for one in carried(worker) for name, _ in one.headers)


@pytest.mark.parametrize("target", ["/v1/realtime?model=m", "/v1/chat/completions"])
async def test_websocket_is_refused_in_the_envelope(target: str) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            await client.send(head_of("GET", target, HANDSHAKE) + b"\x81\x85\0\0\0\0hello")
            answer = await client.answer()
            ended = await client.ended()
    error = msgspec.json.decode(answer.body)["error"]
    assert (answer.status, error["code"]) == (501, "not_supported")
    assert "WebSocket" in error["message"]
    assert answer.value(b"x-request-id")
    assert ended
    assert not worker.requests


@pytest.mark.parametrize("target", [b"a.test:443", b"/v1/models", b"http://a.test/v1/models"])
async def test_connect_is_refused_and_what_follows_is_not_read(target: bytes) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            head = b"CONNECT %b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc" % target
            await client.send(head + head_of("GET", "/v1/smuggled", []))
            answer = await client.answer()
            assert await client.ended()
    assert answer.status == 501
    assert msgspec.json.decode(answer.body)["error"]["code"] == "not_supported"
    assert not worker.requests


class Pipeline(Stage):
    """A gateway, and a worker that keeps what it gets."""

    def open(self) -> None:
        self.worker = self.enter(ScriptedWorker(answer_of(b"{}")))
        served = self.enter(live(before(self.worker)))
        self.address, self.gateway = served.server.address, served.gateway

    async def send(self, pieces: Sequence[bytes]) -> list[Seen]:
        """What the worker gets of these bytes on one connection."""
        before = len(self.worker.requests)
        async with RawClient(*self.address) as client:
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0)
            while await client.reader.read(1 << 16):
                pass
        return carried(self.worker)[before:]

    async def spoil(self, pieces: Sequence[bytes]) -> None:
        """Send what may be anything, and leave; the gateway goes on, and holds no call."""
        async with RawClient(*self.address) as client:
            with suppress(ConnectionError, RuntimeError):  # RuntimeError: uvloop, once it is closed
                for piece in pieces:
                    client.writer.write(piece)
                    await asyncio.sleep(0)
                client.writer.write_eof()
                while await client.reader.read(1 << 16):
                    pass
        await until(lambda: not self.gateway.calls_in_flight)
        async with RawClient(*self.address) as client:
            assert (await client.ask("GET", "/health")).status == 200


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline() as pipeline:
        pipeline.open()
        yield pipeline


@settings(max_examples=120)
@given(st.lists(requests, min_size=1, max_size=4), places)
def test_worker_gets_the_requests_that_a_plain_reader_finds(
    pipeline: Pipeline, sent: list[Request], at: list[int]
) -> None:
    raw = b"".join(
        one.written(b"/v1/%d" % index, last=index == len(sent) - 1)
        for index, one in enumerate(sent)
    )
    got = pipeline.run(pipeline.send(cut(raw, at)))
    assert [(one.method, one.target, one.body) for one in got] == read_all(raw)
    assert not any(name in HOP for one in got for name, _ in one.headers)


SPLICES = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 6),
        st.binary(max_size=4)
        | st.sampled_from(
            [
                *(b"\r\n", b"\r\n\r\n", b"\n", b"0\r\n", b" HTTP/1.0\r\n", b"Upgrade: h2c\r\n"),
                *(b"CONNECT a:1 HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n"),
                *(b"Content-Length: 3\r\n", b"Connection: close\r\n"),
            ]
        ),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(requests, min_size=1, max_size=3), SPLICES, places)
def test_callers_of_spoilt_requests_break_nothing(
    pipeline: Pipeline,
    caplog: pytest.LogCaptureFixture,
    sent: list[Request],
    splices: list[tuple[int, int, bytes]],
    at: list[int],
) -> None:
    raw = b"".join(one.written(b"/v1/x", last=False) for one in sent)
    for place, gone, new in splices:
        raw = raw[:place] + new + raw[place + gone :]
    caplog.clear()
    pipeline.run(pipeline.spoil(cut(raw, at)))
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_many_offers_in_one_read_are_all_declined(pipeline: Pipeline) -> None:
    one = Request(b"POST", H2C, b"ab", None, b"")
    raw = b"".join(one.written(b"/v1/x", last=index == 199) for index in range(200))
    assert [got.body for got in pipeline.run(pipeline.send([raw]))] == [b"ab"] * 200
