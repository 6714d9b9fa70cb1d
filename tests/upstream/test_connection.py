"""Exchanges over real sockets: what comes early, in pieces, too fast, or without an end."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from support.callers.raw_client import Headers, RawAnswer, RawClient, head_of
from support.plugins.recording_plugin import until
from support.records.worker_answers import cut
from support.workers.pool_exchanges import gone

from gateway.config import ServerLimits
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of

OK = answer_of(b"{}")
MIB = 1 << 20
STALLED = 0.2
"""Seconds without progress after which whoever sends is taken to be held up."""

Script = Callable[[ScriptedConnection], Awaitable[None]]


class Setting:
    """A gateway before one scripted worker."""

    def __init__(self, live: Live, worker: ScriptedWorker) -> None:
        self.live = live
        self.worker = worker

    def client(self) -> RawClient:
        return RawClient(*self.live.server.address)

    async def ask(self) -> RawAnswer:
        async with self.client() as client:
            return await client.ask("POST", "/v1/completions")


Before = Callable[[bytes | Script], AbstractAsyncContextManager[Setting]]


@pytest.fixture
def before(gateway_for: GatewayFor) -> Before:
    """Starts a gateway before a worker that runs the script."""

    @asynccontextmanager
    async def start(script: bytes | Script) -> AsyncIterator[Setting]:
        async with ScriptedWorker(script) as worker:
            limits = ServerLimits(max_body_bytes=1 << 30)
            yield Setting(await gateway_for(workers=(worker.url,), server_limits=limits), worker)

    return start


GATEWAYS_OWN = (b"x-request-id", b"x-gateway", b"server-timing")


def end_to_end(answer: RawAnswer) -> Headers:
    """Its headers less the gateway's own."""
    return [line for line in answer.headers if not line[0].startswith(GATEWAYS_OWN)]


# the answer


@pytest.mark.parametrize("framing", [b"content-length: 1234", b"transfer-encoding: chunked"])
async def test_response_to_head_has_no_body(before: Before, framing: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\n%b\r\nx-a: b\r\n\r\n" % framing
    async with before(answer) as setting, setting.client() as client:
        for _ in range(2):
            found = await client.ask("HEAD", "/v1/models")
            assert found.status == 200
            assert found.value(b"x-a") == b"b"
            assert found.value(b"transfer-encoding") is None
            assert found.value(b"content-length") == (b"1234" if b"1234" in framing else None)


async def test_error_response_to_head_has_no_body(before: Before) -> None:
    async with before(b"garbage") as setting, setting.client() as client:
        for _ in range(2):
            found = await client.ask("HEAD", "/v1/models")
            assert found.status == 502
            assert found.value(b"content-length") is not None


@pytest.mark.parametrize("status", [204, 304])
async def test_response_with_status_204_or_304_has_no_body(before: Before, status: int) -> None:
    answer = b"HTTP/1.1 %d\r\ncontent-length: 17\r\netag: x\r\n\r\n" % status
    async with before(answer) as setting, setting.client() as client:
        for _ in range(2):
            found = await client.ask("GET", "/v1/models")
            assert found.status == status
            assert end_to_end(found) == [(b"etag", b"x")]


async def test_response_header_lines_stay_separate_and_in_order(before: Before) -> None:
    lines = [
        (b"set-cookie", b"a=1; Path=/"),
        (b"x-ratelimit-remaining", b"7"),
        (b"set-cookie", b"b=2, c"),
        (b"content-length", b"2"),
        (b"set-cookie", b"a=1; Path=/"),
        (b"x-latin", b"caf\xe9"),
        (b"x-empty", b""),
    ]
    head = b"".join([b"%b: %b\r\n" % line for line in lines])
    async with before(b"HTTP/1.1 200 OK\r\n%b\r\n{}" % head) as setting:
        found = await setting.ask()
    assert end_to_end(found) == lines


async def test_response_hop_by_hop_headers_are_not_forwarded(before: Before) -> None:
    lines = (
        b"Connection: keep-alive, X-Inner\r\nX-Inner: secret\r\nKeep-Alive: timeout=5\r\n"
        b"Connection: X-Other\r\nX-Other: secret\r\nUpgrade: h2c\r\nTrailer: X-Sum\r\n"
        b"Proxy-Authenticate: Basic\r\nX-Request-Id: other\r\nX-Gateway-Worker: other\r\n"
    )
    async with before(OK.replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n", 1)) as setting:
        found = await setting.ask()
        assert [name for name, _ in found.headers] == [
            *(b"content-type", b"content-length"),
            *(b"x-request-id", b"x-gateway-worker", b"server-timing"),
        ]
        assert found.value(b"x-request-id") != b"other"
        assert found.value(b"x-gateway-worker") == setting.worker.url[7:].encode()


async def test_interim_responses_and_trailers_are_dropped(before: Before) -> None:
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-sum: 1\r\n\r\n"
    )
    async with before(answer) as setting, setting.client() as client:
        for _ in range(2):
            found = await client.ask("GET", "/v1/models")
            assert (found.status, found.body) == (200, b"{}")
            assert found.value(b"link") is None
            assert found.value(b"x-sum") is None
        assert len(setting.worker.connections) == 1


async def until_close(connection: ScriptedConnection) -> None:
    await connection.read_request()
    await connection.dribble(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end")


async def test_response_that_ends_with_its_connection_is_forwarded_as_chunks(
    before: Before,
) -> None:
    async with before(until_close) as setting:
        found = await setting.ask()
    assert found.body == b"to the end"
    assert found.value(b"transfer-encoding") == b"chunked"


async def test_response_cut_by_a_reset_is_cut_for_the_caller_too(
    before: Before,
) -> None:
    received = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await until_close(connection)
        await received.wait()
        connection.reset()

    async with before(script) as setting, setting.client() as client:
        await client.send(head_of("GET", "/v1/models", []))
        await client.reader.readuntil(b"\r\nd\r\n")  # the last letter, a chunk of its own
        received.set()
        assert await client.ended()


@pytest.mark.parametrize("worker_says", [OK, until_close])
async def test_caller_with_http_1_0_gets_no_chunked_response(
    before: Before, worker_says: bytes | Script
) -> None:
    async with before(worker_says) as setting, setting.client() as client:
        await client.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
        head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    assert body in (b"{}", b"to the end")
    assert b"chunked" not in head
    assert b"connection: close" in head


async def test_response_parts_are_forwarded_as_they_arrive(before: Before) -> None:
    """The head, and each part of the body, without waiting for what follows it."""
    heard = asyncio.Event()
    parts = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", b"1\r\nb\r\n"]

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        for part in parts:
            await connection.write(part)
            await heard.wait()
            heard.clear()
        await connection.write(b"0\r\n\r\n")

    async with before(script) as setting, setting.client() as client:
        await client.send(head_of("GET", "/v1/models", []))
        assert (await client.head()).status == 200
        heard.set()
        for part in parts[1:]:
            assert await client.reader.readexactly(len(part)) == part
            heard.set()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


# the request


async def test_request_may_arrive_byte_by_byte(before: Before) -> None:
    async with before(OK) as setting, setting.client() as client:
        lines = [(b"content-length", b"5"), (b"x-a", b"b")]
        for byte in head_of("POST", "/v1/completions", lines) + b"hello":
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).body == b"{}"
        (request,) = setting.worker.requests
        assert request.endswith(b"\r\n\r\nhello")
        assert b"\r\nx-a: b\r\n" in request


@pytest.mark.parametrize("step", [1000, 100_000])
@pytest.mark.parametrize(("size", "status"), [(65_000, 200), (65_600, 400)])
async def test_request_header_size_is_limited_however_it_is_split(
    before: Before, size: int, status: int, step: int
) -> None:
    async with before(OK) as setting, setting.client() as client:
        assert (await client.ask("GET", "/v1/models")).status == 200
        head = head_of("GET", "/v1/models", [(b"x-a", b"a" * size)])
        for piece in cut(head, range(0, len(head), step)):
            await client.send(piece)
            await asyncio.sleep(0)
        assert (await client.answer()).status == status


async def test_request_body_does_not_count_towards_the_next_header(before: Before) -> None:
    async with before(OK) as setting, setting.client() as client:
        first = head_of("POST", "/v1/completions", [(b"content-length", b"200000")])
        second = head_of("GET", "/v1/models", [])
        await client.send(first + bytes(200_000) + second[:-2])
        assert (await client.answer()).status == 200
        await client.send(second[-2:])
        assert (await client.answer()).status == 200


BLOCK = bytes(range(256)) * 1024


def coded(block: bytes, *, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(block), block) if chunked else block


def announced(size: int, *, chunked: bool) -> Headers:
    return [(b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % size)]


class Reading:
    """A worker that takes in as much as it reads, and the kernel's buffers hold."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.digest = ""
        self.size = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await self.may_read.wait()
        taken = hashlib.sha256()
        async for block in self.blocks(reader, head):
            taken.update(block)
            self.size += len(block)
        self.digest = taken.hexdigest()
        writer.write(OK)
        await reader.read()
        writer.close()

    async def blocks(self, reader: asyncio.StreamReader, head: bytes) -> AsyncIterator[bytes]:
        if b"transfer-encoding: chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                yield (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            left = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while left:
                block = await reader.read(left)
                left -= len(block)
                yield block


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_long_request_body_is_forwarded_at_the_worker_s_pace(
    gateway_for: GatewayFor, chunked: bool
) -> None:
    count = 64 * MIB // len(BLOCK)
    reading = Reading()
    async with await asyncio.start_server(reading.answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        limits = ServerLimits(max_body_bytes=count * len(BLOCK))
        live = await gateway_for(workers=(f"http://127.0.0.1:{port}",), server_limits=limits)
        async with RawClient(*live.server.address) as client:
            lines = announced(count * len(BLOCK), chunked=chunked)
            await client.send(head_of("POST", "/v1/files", lines))
            held_up_at = None
            for number in range(count):
                sending = asyncio.ensure_future(client.send(coded(BLOCK, chunked=chunked)))
                if held_up_at is None and not (await asyncio.wait([sending], timeout=STALLED))[0]:
                    held_up_at = number * len(BLOCK)
                    reading.may_read.set()
                await sending
            assert held_up_at is not None  # else the gateway has taken it all
            await client.send(b"0\r\n\r\n" if chunked else b"")
            assert (await client.answer()).status == 200

    assert held_up_at < 48 * MIB
    assert reading.size == count * len(BLOCK)
    assert reading.digest == hashlib.sha256(BLOCK * count).hexdigest()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_long_response_body_is_forwarded_at_the_caller_s_pace(
    before: Before, chunked: bool
) -> None:
    count = 64 * MIB // len(BLOCK)
    held_up = asyncio.Event()
    held_up_at = None

    async def script(connection: ScriptedConnection) -> None:
        nonlocal held_up_at
        await connection.read_request()
        (line,) = announced(count * len(BLOCK), chunked=chunked)
        await connection.write(b"HTTP/1.1 200 OK\r\n%b: %b\r\n\r\n" % line)
        for number in range(count):
            writing = asyncio.ensure_future(connection.write(coded(BLOCK, chunked=chunked)))
            if held_up_at is None and not (await asyncio.wait([writing], timeout=STALLED))[0]:
                held_up_at = number * len(BLOCK)
                held_up.set()
            await writing
        held_up.set()
        await connection.write(b"0\r\n\r\n" if chunked else b"")
        await connection.reader.read()

    async with before(script) as setting, setting.client() as client:
        await client.send(head_of("GET", "/v1/files", []))
        await held_up.wait()
        assert held_up_at is not None  # else the gateway has taken it all
        answer = await client.answer()
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(BLOCK * count).digest()


async def early(connection: ScriptedConnection) -> None:
    """Refuses a body of which it has seen only the beginning."""
    await connection.reader.readuntil(b"\r\n\r\n")
    await connection.write(answer_of(b"too much", status="413 Content Too Large"))
    await connection.wait_closed()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_response_may_arrive_before_the_request_body_is_sent(
    before: Before, chunked: bool
) -> None:
    block = coded(BLOCK, chunked=chunked)
    async with before(early) as setting, setting.client() as client:
        lines = announced(8 * len(BLOCK), chunked=chunked)
        await client.send(head_of("POST", "/v1/files", lines) + block)
        found = await client.answer()
        assert (found.status, found.body) == (413, b"too much")
        await gone(setting.worker.connections[0])  # nothing could follow on it

        await client.send(block * 7 + (b"0\r\n\r\n" if chunked else b""))
        assert (await client.ask("POST", "/v1/files", [], b"{}")).status == 413


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_worker_connection_closes_if_the_request_body_breaks_off(
    before: Before, chunked: bool
) -> None:
    """It must not take the half that came for the whole."""
    async with before(OK) as setting:
        async with setting.client() as client:
            lines = announced(8 * len(BLOCK), chunked=chunked)
            block = coded(BLOCK, chunked=chunked)
            await client.send(head_of("POST", "/v1/files", lines) + block * 2)
            await until(lambda: bool(setting.worker.connections))
        await gone(setting.worker.connections[0])
        assert setting.worker.requests == []


async def test_response_is_whole_if_the_worker_closes_right_after_it(before: Before) -> None:
    """The answer is whole although the connection is gone in the same moment."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(OK)

    async with before(script) as setting:
        for _ in range(20):
            assert (await setting.ask()).body == b"{}"
