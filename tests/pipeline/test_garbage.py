"""Whatever a worker sends, its caller gets a clean error or what the worker really said."""

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.callers.response_paths import PLUGINS
from support.gateways.event_loop import Stage
from support.records.reference_http import Answer, read_to_the_end
from support.records.worker_answers import cut
from support.workers.memory_worker import MemoryPool

from gateway import Gateway
from gateway.config import Config, Worker
from gateway.testing import (
    NO_PROBES,
    RecordedCall,
    ScriptedConnection,
    ScriptedWorker,
    entry,
    live,
    make_call,
)
from gateway.upstream.response import HOP_BY_HOP

CODES = {"upstream_protocol_error", "upstream_closed"}
ADDED = HOP_BY_HOP | {b"x-request-id", b"x-gateway-worker", b"server-timing"}
INJECTED = (b"token_ids", b"logprobs", b"usage")


class Complaints(logging.Handler):
    """Everything that is logged as an error, and so would wake somebody."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def complaints() -> Iterator[Complaints]:
    handler = Complaints()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


class Rehearsal(Stage):
    """A gateway for each way, whose worker says in memory what an example is made of."""

    def open(self) -> None:
        self.gateways = {way: self.enter(Gateway(config("http://memory", way))) for way in PLUGINS}

    def try_out(self, said: bytes, at: Sequence[int], way: str, method: str) -> None:
        """Have the worker say this, cut into reads there."""
        gateway = self.gateways[way]
        (worker,) = gateway.workers.all
        worker.pool = MemoryPool(cut(said, at))
        call = make_call({"stream": True}, method=method)
        self.run(gateway.proxy.dispatch(call))
        assert not gateway.proxy.in_flight
        assert worker.in_flight == 0
        check(call, way, said)


def config(url: str, way: str) -> Config:
    return Config(
        probes=NO_PROBES,
        workers=(Worker(url=url),),
        plugins=tuple(entry(plugin) for plugin in PLUGINS[way]),
    )


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Rehearsal]:
    with Rehearsal() as rehearsal:
        rehearsal.open()
        yield rehearsal


def check(call: RecordedCall, way: str, said: bytes) -> None:
    """The three ends there are: as the worker said, an error in its place, or broken off."""
    caller, error = call.caller, call.outcome.error
    meant = read_to_the_end(said, head_only=call.method == "HEAD")
    assert caller.is_ended is not caller.is_cut
    if error is None:
        assert call.outcome.complete
        assert meant is not None
        check_passed_on(call, way, said, meant)
        return
    assert meant is None or b";" in said or is_coded(said)  # `;`: a chunk's extension is malformed
    if caller.is_ended:
        assert error.code in CODES
        assert caller.status == 502
        assert msgspec.json.decode(caller.body)["error"]["code"] == error.code
        assert (b"content-type", b"application/json") in caller.headers
    else:
        assert error.code in CODES
        assert not call.outcome.complete


def check_passed_on(call: RecordedCall, way: str, said: bytes, meant: Answer) -> None:
    assert call.caller.status == meant.status
    if not is_coded(said) and (way != "stripped" or not any(name in said for name in INJECTED)):
        assert call.caller.body == meant.body
        own = {b"content-length"} if way == "stripped" or meant.status in (204, 304) else set()
        assert end_to_end(call.caller.headers, own) == end_to_end(meant.headers, own)


def is_coded(said: bytes) -> bool:
    """Whether the response may announce a compressed body, which is decoded or rejected."""
    return b"content-encoding" in said.lower()


def end_to_end(
    headers: Sequence[tuple[bytes, bytes]], more: Collection[bytes] = ()
) -> list[tuple[bytes, bytes]]:
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    return [line for line in headers if line[0] not in ADDED.union(named, more)]


asked = st.sampled_from([(way, method) for way in PLUGINS for method in ("POST", "GET", "HEAD")])
places = st.lists(st.integers(0, 200), max_size=3)
many = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n%b"
EVENTS = (
    b'a\r\ndata: {}\n\n\r\n17\r\ndata: {"choices":[]}\n\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n'
)
VALID = [
    *(b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 X\r\ncontent-length: 7\r\n\r\n"),
    *(
        b"HTTP/1.1 200 OK\r\n\r\nto the end",
        b"HTTP/1.0 200 OK\r\nconnection: x-a\r\nx-a: b\r\n\r\n",
    ),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x00",
    CHUNKED % (b"application/json", b"5;a=b\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n"),
    CHUNKED % (b"text/event-stream", EVENTS),
    b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n" + b'{"choices":[{"a": 1}]}',
]
"""What garbage is made from: answers of every kind there is."""

WORDS = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 ", b"HTTP/1.0 500 X", b"200", b"204", b"100 Continue"),
    *(b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\n\n", b" ", b":", b": ", b"\x00"),
    *(b"content-length", b"content-length: 2", b"Content-Length: 0", b"transfer-encoding: chunked"),
    *(b"transfer-encoding: gzip", b"connection: close", b"connection: keep-alive, x-a", b"x-a: 1"),
    *(b"upgrade: h2c", b"content-type: text/event-stream", b"content-type: application/json"),
    *(b"0", b"2", b"a", b"0\r\n\r\n", b"data: ", b"data: [DONE]\n\n", b"{}", b"[", b'{"choices":['),
    *(b'{"choices":[{"index":0,"finish_reason":"stop"}]}', b"[" * 3000, b"\xff", b"\xef\xbb\xbf"),
]

edits = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.integers(0, 4),
        st.sampled_from(WORDS) | st.binary(max_size=3) | st.just(b""),
    ),
    min_size=1,
    max_size=4,
)


def edited(answer: bytes, changes: Sequence[tuple[int, int, bytes]]) -> bytes:
    """With something cut out and something put in at each place."""
    for place, length, put_in in changes:
        place %= len(answer) + 1
        answer = answer[:place] + put_in + answer[place + length :]
    return answer


noise = st.binary(max_size=200)
word_salad = st.lists(st.sampled_from(WORDS), max_size=14).map(b"".join)
after_a_start = word_salad.map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest)
mutants = st.builds(edited, st.sampled_from(VALID), edits)


@settings(many, max_examples=800)
@given(noise, places, asked)
def test_proxy_survives_random_bytes_from_a_worker(
    rehearsal: Rehearsal,
    complaints: Complaints,
    said: bytes,
    at: list[int],
    asked: tuple[str, str],
) -> None:
    rehearsal.try_out(said, at, *asked)
    assert not complaints.records


ENDS_TOO_SOON = b"HTTP/1.0 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
"""An answer after an interim one whose version ends the connection."""


@settings(many, max_examples=1000)
@given(said=mutants, at=places, asked=asked)
@example(said=ENDS_TOO_SOON, at=[], asked=("untouched", "POST"))
def test_proxy_survives_corrupted_responses_from_a_worker(
    rehearsal: Rehearsal,
    complaints: Complaints,
    said: bytes,
    at: list[int],
    asked: tuple[str, str],
) -> None:
    rehearsal.try_out(said, at, *asked)
    assert not complaints.records


@settings(many, max_examples=800)
@given(word_salad | after_a_start, places, asked)
def test_proxy_survives_shuffled_http_fragments_from_a_worker(
    rehearsal: Rehearsal,
    complaints: Complaints,
    said: bytes,
    at: list[int],
    asked: tuple[str, str],
) -> None:
    rehearsal.try_out(said, at, *asked)
    assert not complaints.records


class Theatre(Stage):
    """The same over sockets."""

    def open(self) -> None:
        self.pieces: Sequence[bytes] = ()
        worker = self.enter(ScriptedWorker(self._script))
        lives = {way: self.enter(live(config(worker.url, way))) for way in PLUGINS}
        self.addresses = {way: live.server.address for way, live in lives.items()}

    async def _script(self, connection: ScriptedConnection) -> None:
        await connection.read_request()
        for piece in self.pieces:
            await connection.write(piece)
            await asyncio.sleep(0)

    async def try_out(self, said: bytes, at: Sequence[int], way: str, method: str) -> None:
        self.pieces = cut(said, at)
        async with RawClient(*self.addresses[way]) as client:
            body = b'{"stream": true}' if method == "POST" else b""
            try:
                answer = await client.ask(method, "/v1/chat/completions", [], body)
            except CutShort:
                return
            check_answer(answer, way, method, said)
            # Had the answer been longer or shorter than its head says, this one would be garbled.
            assert (await client.ask("GET", "/health")).body == b'{"status":"ok"}'


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    with Theatre() as theatre:
        theatre.open()
        yield theatre


def check_answer(answer: RawAnswer, way: str, method: str, said: bytes) -> None:
    meant = read_to_the_end(said, head_only=method == "HEAD")
    if meant is None or ((b";" in said or is_coded(said)) and answer.status == 502):
        assert answer.status == 502
        if method != "HEAD":
            assert msgspec.json.decode(answer.body)["error"]["code"] in CODES
        return
    assert answer.status == meant.status
    if not is_coded(said) and (way != "stripped" or not any(name in said for name in INJECTED)):
        assert answer.body == meant.body


@settings(many, max_examples=400)
@given(noise | word_salad | after_a_start | mutants | st.sampled_from(VALID), places, asked)
def test_proxy_survives_garbage_over_sockets(
    theatre: Theatre,
    complaints: Complaints,
    said: bytes,
    at: list[int],
    asked: tuple[str, str],
) -> None:
    theatre.run(theatre.try_out(said, at, *asked))
    assert not complaints.records
