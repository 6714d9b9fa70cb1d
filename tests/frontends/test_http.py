"""The ASGI edge: request ids, bodies that are refused, and life under other servers."""

import asyncio
from collections.abc import Sequence

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from support.callers.raw_client import RawClient, head_of
from support.callers.seen_request import seen
from support.plugins.recording_plugin import PATIENCE

from gateway import Call, Gateway, hookimpl
from gateway.config import Config, ServerLimits, Worker
from gateway.testing import (
    NO_PROBES,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
)

CHAT = "/v1/chat/completions"
JSON_BODY = (b"content-type", b"application/json")


class Reads:
    """Asks for the body as JSON."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.json()


class Upper:
    """Carries calls below /upper, whose bodies it changes as they come."""

    @hookimpl
    def routes(self, gateway: Gateway) -> list[BaseRoute]:
        return [gateway.carried(Route("/upper", UpperEdge(gateway)))]


class UpperEdge:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def changed() -> Message:
            message = await receive()
            return {**message, "body": message.get("body", b"").upper()}

        await self._gateway.carry(scope, changed, send, path=CHAT)


def before(worker: ScriptedWorker, *plugins: type, **settings: object) -> Config:
    named = tuple(entry(plugin) for plugin in plugins)
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), plugins=named, **settings)  # type: ignore[arg-type]


def client_of(gateway: Live) -> RawClient:
    return RawClient(*gateway.server.address)


def code_of(body: bytes) -> str:
    """The code in OpenAI's envelope, which must be whole."""
    [(key, error)] = msgspec.json.decode(body).items()
    assert key == "error"
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


async def test_request_id_of_the_caller_is_returned_and_forwarded() -> None:
    given = b"Run-7/step.3:" + b"x" * 100
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            answer = await client.ask("GET", "/v1/models", [(b"X-Request-ID", given)])
    assert answer.values(b"x-request-id") == [given]
    assert seen(worker.requests[0]).values(b"x-request-id") == [given]


@pytest.mark.parametrize("given", [None, b"", b"a b", b"\xc3\xa9", b"a\tb", b"x" * 200])
async def test_request_id_is_generated_if_the_caller_has_no_valid_one(given: bytes | None) -> None:
    headers = [] if given is None else [(b"x-request-id", given)]
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            answers = [await client.ask("GET", "/v1/models", headers) for _ in range(2)]
    made = [answer.values(b"x-request-id") for answer in answers]
    assert made == [seen(request).values(b"x-request-id") for request in worker.requests]
    assert all(len(ids) == 1 and len(ids[0]) == 32 and int(ids[0], 16) for ids in made)
    assert made[0] != made[1]


async def test_rejections_carry_the_request_id() -> None:
    async with live(Config()) as gateway:
        answer = await gateway.client.get("/v1/models", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (503, "mine")


@pytest.mark.parametrize("path", ["/nowhere", "/v1/../x", "/admin/workers/none", "/sessions//v1/x"])
async def test_every_error_page_has_the_request_id(path: str) -> None:
    config = Config(probes=NO_PROBES, plugins=(entry("sessions"),))
    async with live(config) as gateway, RawClient(*gateway.server.address) as client:
        answer = await client.ask("GET", path, [(b"x-request-id", b"mine")])
    assert (answer.status, answer.values(b"x-request-id")) == (404, [b"mine"])


async def test_worker_cannot_forge_gateway_response_headers() -> None:
    forged = (
        b"HTTP/1.1 200 OK\r\nX-Gateway-Worker: x\r\nx-request-id: y\r\ncontent-length: 0\r\n\r\n"
    )
    async with ScriptedWorker(forged) as worker:
        named = Worker(url=worker.url, worker_id="gpu 3")
        async with (
            live(Config(probes=NO_PROBES, workers=(named,))) as gateway,
            client_of(gateway) as client,
        ):
            answer = await client.ask("GET", "/v1/models", [(b"x-request-id", b"mine")])
    assert answer.values(b"x-gateway-worker") == [b"gpu 3"]
    assert answer.values(b"x-request-id") == [b"mine"]


SMALL = ServerLimits(max_body_bytes=1000)


async def refused(client: RawClient) -> None:
    """See that the next answer is a 413, with nothing before it and nothing after."""
    async with asyncio.timeout(PATIENCE):
        answer = await client.head()
        body = await client.reader.readexactly(int(answer.value(b"content-length") or b"0"))
        assert (answer.status, code_of(body)) == (413, "body_too_large")
        assert answer.values(b"connection") == [b"close"]
        assert await client.ended()


@pytest.mark.parametrize("extra", [[], [(b"expect", b"100-continue")]])
@pytest.mark.parametrize("length", [1001, 10**18])
async def test_content_length_over_the_limit_is_rejected_unread(
    extra: list[tuple[bytes, bytes]], length: int
) -> None:
    async with ScriptedWorker(b"") as worker, live(before(worker, server_limits=SMALL)) as gateway:
        async with client_of(gateway) as client:
            await client.send(head_of("POST", CHAT, [(b"content-length", b"%d" % length), *extra]))
            await refused(client)
    assert worker.connections == []


TWICE = b"258\r\n%b\r\n" % (b"x" * 600) * 2
IN_CHUNKS = (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize("plugins", [(), (Reads,)], ids=["unread", "read"])
@pytest.mark.parametrize("body", [TWICE, TWICE + b"0\r\n\r\n"], ids=["endless", "ended"])
@pytest.mark.parametrize("apart", [False, True])
async def test_chunked_body_over_the_limit_is_rejected(
    plugins: Sequence[type], body: bytes, *, apart: bool
) -> None:
    """`apart`: it comes in a read of its own, after the gateway has asked for it."""
    async with ScriptedWorker(b"") as worker:
        async with live(before(worker, *plugins, server_limits=SMALL)) as gateway:
            async with client_of(gateway) as client:
                if apart:
                    lines = [IN_CHUNKS, (b"expect", b"100-continue")]
                    await client.send(head_of("POST", CHAT, lines))
                    assert (await client.head()).status == 100
                    await client.send(body)
                else:
                    await client.send(head_of("POST", CHAT, [IN_CHUNKS]) + body)
                await refused(client)
    assert worker.requests == []


async def test_upload_that_grows_over_the_limit_is_cut_off() -> None:
    """The worker has a part of it by then, and must not take that for the whole."""
    reached = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.reader.readuntil(b"x" * 600)
        reached.set()
        await connection.read_request()

    async with ScriptedWorker(script) as worker:
        async with (
            live(before(worker, server_limits=SMALL)) as gateway,
            client_of(gateway) as client,
        ):
            async with asyncio.timeout(PATIENCE):
                half = TWICE[: len(TWICE) // 2]
                await client.send(head_of("POST", CHAT, [IN_CHUNKS]) + half)
                await reached.wait()
                await client.send(half)
                await refused(client)
                await worker.connections[0].wait_closed()
    assert worker.requests == []


async def test_body_of_exactly_the_limit_is_forwarded() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        async with live(before(worker, server_limits=SMALL)) as gateway:
            answer = await gateway.client.post(CHAT, content=b"x" * 1000)
    assert answer.status_code == 200
    assert seen(worker.requests[0]).body == b"x" * 1000


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1, 2]", b"null", b'"text"', b"{} {}", b'{"a": "\xff"}', b"[" * 100_000],
    ids=lambda body: repr(body[:9]),
)
async def test_invalid_json_is_rejected_only_if_a_plugin_reads_it(body: bytes) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        async with live(before(worker)) as gateway:
            assert (await gateway.client.post(CHAT, content=body)).status_code == 200
        async with live(before(worker, Reads)) as gateway:
            answer = await gateway.client.post(CHAT, content=body)
    assert (answer.status_code, code_of(answer.content)) == (400, "invalid_json")
    assert [seen(request).body for request in worker.requests] == [body]


EVENTS = b"data: {}\n\ndata: [DONE]\n\n"
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"a\r\ndata: {}\n\n\r\n" + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


class Stamping:
    """A middleware that wraps `send`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-stamp", b"1")]}
            await send(message)

        await self._app(scope, receive, stamped)


def under(gateway: Gateway, how: str) -> tuple[ASGIApp, str]:
    """The gateway as a part of something else, and where it is then."""
    if how == "mounted":
        return Starlette(routes=[Mount("/inner/llm", gateway)]), "/inner/llm"
    return (Stamping(gateway), "") if how == "wrapped" else (gateway, "")


@pytest.mark.parametrize("how", ["bare", "mounted", "wrapped"])
async def test_gateway_works_bare_mounted_and_wrapped_in_asgi(how: str) -> None:
    async with ScriptedWorker(STREAM) as worker, Gateway(before(worker)) as gateway:
        app, prefix = under(gateway, how)
        transport = httpx.ASGITransport(app)
        base = f"http://gateway.test{prefix}"
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            answer = await client.post(f"{CHAT}?a=%20", content=b"body")
            extra = await client.get("/tokenize")
            unknown = [await client.get(path) for path in ("/pause", "/v1/%2e%2e/pause", "/v1")]
            health = await client.get("/health")
    assert (answer.content, extra.content, health.status_code) == (EVENTS, EVENTS, 200)
    assert [(one.status_code, code_of(one.content)) for one in unknown] == [(404, "not_found")] * 3
    assert ("x-stamp" in answer.headers) == (how == "wrapped")
    carried = [seen(request) for request in worker.requests]
    assert [(one.target, one.body) for one in carried] == [
        (f"{CHAT}?a=%20", b"body"),
        ("/tokenize", b""),
    ]


async def test_plugin_route_may_change_the_body_as_it_streams() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker, Upper)) as gateway:
        answer = await gateway.client.post("/upper", content=b"quiet")
    assert answer.status_code == 200
    assert seen(worker.requests[0]).body == b"QUIET"
