"""Bodies of requests: read whole or passed on as they come, within the limits."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.callers.raw_client import HEAD_END, RawClient, head_of
from support.callers.seen_request import seen
from support.plugins.recording_plugin import PATIENCE

from gateway import BodyTooLarge, Call, hookimpl
from gateway.calls.body import Body, parse_object
from gateway.config import Config, Worker
from gateway.errors import CallerGone, InvalidJSON
from gateway.testing import (
    NO_PROBES,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
    make_call,
)

CHAT = "/v1/chat/completions"
MIB = 1 << 20
LARGE = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3 * MIB // 32))

Framed = Callable[[bytes], tuple[bytes, bytes]]
"""A body as it is sent: the header line that frames it, and its bytes."""


def body_of(
    chunks: Iterable[bytes], *, length: int | None = None, limit: int | None = None
) -> Body:
    """A body that comes in these chunks, of which there is at least one."""
    coming = list(chunks)

    async def source() -> tuple[bytes, bool]:
        chunk = coming.pop(0)
        return chunk, bool(coming)

    return Body(source=source, length=length, limit=limit)


async def streamed(body: Body) -> list[bytes]:
    return [chunk async for chunk in body.stream() if chunk]


async def test_body_is_read_once_and_kept() -> None:
    body = body_of([b"a", b"", b"bc"])
    assert (body.data, body.length) == (None, None)
    assert await body.read() == b"abc"
    assert await body.read() == b"abc"
    assert (body.data, body.length) == (b"abc", 3)


async def test_body_is_streamed_only_once() -> None:
    body = body_of([b"a", b"", b"bc"])
    assert await streamed(body) == [b"a", b"bc"]
    assert body.data is None
    for again in (streamed(body), body.read()):
        with pytest.raises(RuntimeError, match="already been streamed"):
            await again


async def test_body_given_as_data_needs_no_read() -> None:
    body = Body(b"abc", length=99)
    await body.read_if_short(0)
    assert (await body.read(), body.length) == (b"abc", 3)


@pytest.mark.parametrize(
    ("chunks", "length", "gathered"),
    [
        ([b"abcd"], None, True),
        ([b"abcdefgh"], None, True),
        ([b"ab", b"cd"], 4, True),
        ([b"abc", b"de"], 5, False),
        ([b"ab", b"cd"], None, False),
        ([b""], None, True),
    ],
)
async def test_body_is_read_early_if_it_is_short(
    chunks: list[bytes], length: int | None, *, gathered: bool
) -> None:
    """In one piece, or announced to have at most four bytes."""
    body = body_of(chunks, length=length)
    await body.read_if_short(4)
    assert body.data == (b"".join(chunks) if gathered else None)
    assert await body.read() == b"".join(chunks)


@pytest.mark.parametrize(("length", "fits"), [(None, True), (4, True), (5, False)])
def test_body_checks_the_content_length_against_the_limit(
    length: int | None, *, fits: bool
) -> None:
    body = body_of([b""], length=length, limit=4)
    if fits:
        body.check_length()
        return
    with pytest.raises(BodyTooLarge, match=r"larger than 4 bytes \(server_limits.max_body_bytes\)"):
        body.check_length()


async def test_body_rejects_a_single_chunk_over_the_limit() -> None:
    with pytest.raises(BodyTooLarge):
        await body_of([b"abcde"], limit=4).read_if_short(100)


async def test_body_read_fails_if_the_caller_disconnects() -> None:
    async def gone() -> tuple[bytes, bool]:
        raise CallerGone("the caller left")

    with pytest.raises(CallerGone):
        await Body(source=gone).read()


pieces = st.lists(st.binary(max_size=6), min_size=1, max_size=6)


@given(pieces, st.integers(0, 20), st.integers(0, 20), st.booleans(), st.booleans())
async def test_body_is_read_whole_or_rejected_as_too_large(
    pieces: list[bytes], limit: int, most: int, told: bool, as_it_comes: bool
) -> None:
    whole = b"".join(pieces)
    body = body_of(pieces, length=len(whole) if told else None, limit=limit)
    try:
        body.check_length()
        await body.read_if_short(most)
        read_now = as_it_comes and body.data is None
        got = b"".join(await streamed(body)) if read_now else await body.read()
    except BodyTooLarge:
        assert len(whole) > limit
    else:
        assert got == whole
        assert len(whole) <= limit


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(json_values)
def test_parse_object_accepts_only_objects(value: Any) -> None:
    data = msgspec.json.encode(value)
    if isinstance(value, dict):
        assert parse_object(data) == value
        return
    with pytest.raises(InvalidJSON, match="must be a JSON object"):
        parse_object(data)


@given(st.binary())
@example(b"")
@example(b'{"a":' * 100_000)
@example(b'{"a": "\\ud800"}')
def test_parse_object_returns_an_object_or_rejects(data: bytes) -> None:
    with contextlib.suppress(InvalidJSON):
        assert isinstance(parse_object(data), dict)


class Reads:
    """Keeps the bodies that it has read."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    @hookimpl
    async def prepare(self, call: Call) -> None:
        self.bodies.append(await call.body.read())


def before(worker: ScriptedWorker, *plugins: type) -> Config:
    named = tuple(entry(plugin) for plugin in plugins)
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), plugins=named)


def client_of(gateway: Live) -> RawClient:
    return RawClient(*gateway.server.address)


def with_length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length: %d" % len(body), body


def in_chunks(body: bytes) -> tuple[bytes, bytes]:
    sizes = [1, 2, 70_000, 3, 500_000]
    parts: list[bytes] = []
    at = 0
    while at < len(body):
        part = body[at : at + sizes[len(parts) % len(sizes)]]
        parts.append(b"%x\r\n%b\r\n" % (len(part), part))
        at += len(part)
    return b"transfer-encoding: chunked", b"".join([*parts, b"0\r\n\r\n"])


@pytest.mark.parametrize("body", [b"", b"short", LARGE], ids=["empty", "short", "large"])
@pytest.mark.parametrize("framed", [with_length, in_chunks])
@pytest.mark.parametrize("plugins", [(), (Reads,)], ids=["unread", "read"])
async def test_proxy_forwards_uploads_byte_for_byte(
    framed: Framed, body: bytes, plugins: tuple[type, ...]
) -> None:
    framing, sent = framed(body)
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        async with live(before(worker, *plugins)) as gateway, client_of(gateway) as client:
            name, _, value = framing.partition(b": ")
            await client.send(head_of("POST", "/v1/files", [(name, value)]))
            await client.send(sent)
            assert (await client.answer()).status == 200
            if plugins:
                assert gateway.plugin(Reads).bodies == [body]
    [request] = worker.requests
    assert seen(request).body == body
    if plugins or framed is with_length:
        assert seen(request).values(b"content-length") == [b"%d" % len(body)]
    elif body is LARGE:
        assert seen(request).values(b"transfer-encoding") == [b"chunked"]


@pytest.mark.parametrize("framed", [with_length, in_chunks])
async def test_proxy_forwards_an_upload_before_it_is_complete(framed: Framed) -> None:
    """The rest is sent only when the worker has the first part of it."""
    reached = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.reader.readuntil(HEAD_END)
        await connection.reader.readexactly(50_000)
        reached.set()
        await connection.reader.readexactly(len(LARGE) - 50_000)
        await connection.write(answer_of(b"{}"))

    framing, sent = framed(LARGE)
    async with ScriptedWorker(script) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), client_of(gateway) as client:
            name, _, value = framing.partition(b": ")
            await client.send(head_of("POST", "/v1/files", [(name, value)]) + sent[:100_000])
            await reached.wait()
            await client.send(sent[100_000:])
            assert (await client.answer()).status == 200


async def test_worker_may_answer_before_the_upload_is_complete() -> None:
    """Its connection cannot carry another request then."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.reader.readuntil(HEAD_END)
        await connection.write(answer_of(b'{"no": 1}', status="413 Content Too Large"))
        await connection.wait_closed()

    async with ScriptedWorker(script) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), client_of(gateway) as client:
            length = (b"content-length", b"%d" % len(LARGE))
            await client.send(head_of("POST", "/v1/files", [length]) + LARGE[:1000])
            answer = await client.answer()
            assert (answer.status, answer.body) == (413, b'{"no": 1}')
            await worker.connections[0].wait_closed()


@pytest.mark.parametrize("plugins", [(), (Reads,)], ids=["unread", "read"])
async def test_caller_that_expects_100_continue_receives_it(plugins: tuple[type, ...]) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        async with live(before(worker, *plugins)) as gateway:
            async with asyncio.timeout(PATIENCE), client_of(gateway) as client:
                lines = [(b"expect", b"100-continue"), (b"content-length", b"5")]
                await client.send(head_of("POST", CHAT, lines))
                assert (await client.head()).status == 100
                await client.send(b"hello")
                assert (await client.answer()).status == 200
    asked = seen(worker.requests[0])
    assert (asked.body, asked.values(b"expect")) == (b"hello", [])


@pytest.mark.parametrize(
    ("data", "is_object"),
    [
        (b"{}", True),
        (b' \r\n\t{"model"', True),
        (b" " * 64 + b"{}", True),
        ("{}".encode("utf-16-le"), False),
        (b"[{}]", False),
        (b'"{"', False),
        (b"", False),
    ],
)
async def test_is_object_looks_at_the_beginning(data: bytes, is_object: bool) -> None:
    assert await Body(data).is_object() is is_object


async def test_call_streams_follows_the_body_and_what_plugins_set() -> None:
    call = make_call(b'{"model":"m","stream":"true"}')
    assert (call.streams, call.model) == (True, "m")
    await call.set("stream", False)
    assert not call.streams
    await call.set("stream", 1)
    assert call.streams


def test_call_streams_is_found_though_its_name_is_escaped() -> None:
    assert make_call(b'{"\\u0073tream":true}').streams
    assert not make_call(b'{"model":"m"}').streams


def test_call_streams_is_false_until_the_body_was_read() -> None:
    call = make_call(b'{"stream":true}')
    unread, call.body = call.body, Body(length=15)
    assert not call.streams
    call.body = unread
    assert call.streams
