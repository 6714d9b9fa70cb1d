"""`Call`: what a worker says reaches the caller byte for byte, whatever the API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from gateway_plugins.grpc.edge.calling import Rpc
from gateway_plugins.grpc.services.json.call import JsonCall
from gateway_plugins.grpc.status import Code
from starlette.routing import BaseRoute
from support.grpc.generations import data_of, is_stream
from support.grpc.in_process import MESSAGES, KeptMessages, carried, message
from support.records.vllm_recordings import OTHER_ENGINES, RecordedExchange, load
from support.workers.playing import Playing, naming, raw

from gateway import Call, Gateway, Host, Principal, hookimpl
from gateway.config import Config, Worker
from gateway.testing import NO_PROBES, ScriptedWorker, answer_of, entry

RECORDED = [
    one
    for one in (*load().values(), *load(OTHER_ENGINES).values())
    if one.method in ("POST", "GET")
    and (one.method == "POST") == bool(one.request_body)
    and not (one.cut_short or "").startswith("client")
    # A gateway of this project is not behind one.
    and not one.path.startswith("/sessions/")
]
FAILED_AFTER_ITS_HEAD = (b'"error"', b'"type":"error"')


@asynccontextmanager
async def gateway_before(worker: ScriptedWorker, *plugins: type) -> AsyncIterator[Gateway]:
    others = {one.path.partition("?")[0] for one in RECORDED if not one.path.startswith("/v1/")}
    config = Config(
        probes=NO_PROBES,
        workers=(Worker(url=worker.url),),
        plugins=tuple(entry(plugin) for plugin in plugins),
        extra_paths=tuple(sorted(others)),
    )
    async with Gateway(config) as gateway:
        yield gateway


async def test_events_and_plain_responses_come_byte_for_byte() -> None:
    playing = Playing()
    async with ScriptedWorker(playing.script) as worker, gateway_before(worker) as gateway:
        for exchange in RECORDED:
            playing.pieces, playing.breaks_off = [raw(exchange)], bool(exchange.cut_short)
            with naming(exchange):
                request = message("JsonRequest", path=exchange.path, body=exchange.request_body)
                method = JsonCall(MESSAGES, gateway)
                status, chunks = await carried(gateway, method, request, "JsonChunk")
                check(exchange, status.code, [one.json for one in chunks])
                assert [one.done for one in chunks[:-1]] == [False] * (len(chunks) - 1)
                assert bool(chunks and chunks[-1].done) == (status.code is Code.OK)


def check(exchange: RecordedExchange, code: Code, found: list[bytes]) -> None:
    if exchange.status >= 400:
        assert (code is Code.OK, found) == (False, [])
        return
    streams = is_stream(exchange)
    expected = list(data_of(exchange)) if streams else [exchange.body]
    if code is Code.OK:
        assert found == ([*expected, b""] if streams else expected)
    else:
        failed = any(sign in exchange.body for sign in FAILED_AFTER_ITS_HEAD)
        assert failed or exchange.cut_short or b'"finish_reason":"' not in exchange.body
        assert found == (expected[: len(found)] if streams else [])
        assert len(found) >= len(expected) - 1 or not streams


class Paths:
    """Carries a path for administrators, and answers one under /v1/ itself."""

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [
            *gateway.carry_also("/update", scope="admin"),
            gateway.control("/v1/notes", scope=None, GET=self._notes),
        ]

    async def _notes(self, request: object) -> str:
        return "mine"


class Keys:
    """Knows keys, which are names."""

    @hookimpl
    def authenticate(self, call: Call) -> Principal | None:
        name = (call.header("authorization") or "").removeprefix("Bearer ")
        return Principal(name) if name else None


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/chat/completions", Code.OK),
        ("/v1/new/api?beta=true", Code.OK),
        ("/update", Code.PERMISSION_DENIED),
        ("/v1/notes", Code.NOT_FOUND),
        ("/v1/notebook", Code.OK),
        ("/sessions/s/v1/chat/completions", Code.NOT_FOUND),
        ("/v1/../metrics", Code.NOT_FOUND),
        ("/metrics", Code.NOT_FOUND),
        ("", Code.INVALID_ARGUMENT),
        ("/v1/a b", Code.INVALID_ARGUMENT),
        ("/v1/a\r\nhost: b", Code.INVALID_ARGUMENT),
        ("/v1/é", Code.INVALID_ARGUMENT),
        ("/v1/a#b", Code.INVALID_ARGUMENT),
        ("/v1/" + "a" * 5_000, Code.INVALID_ARGUMENT),
    ],
)
async def test_only_what_the_gateway_carries_reaches_a_worker(path: str, code: Code) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        async with gateway_before(worker, Paths, Keys) as gateway:
            method = JsonCall(MESSAGES, gateway)
            asked = message("JsonRequest", path=path, body=b"{}")
            key = ("authorization", "Bearer me")
            status, _ = await carried(gateway, method, asked, "JsonChunk", key)
            unknown, _ = await carried(gateway, method, asked, "JsonChunk")
    assert (status.code, unknown.code) == (code, Code.UNAUTHENTICATED)
    assert len(worker.requests) == (code is Code.OK)
    assert not worker.requests or worker.requests[0].startswith(b"POST " + path.encode() + b" ")


async def test_nothing_is_read_for_a_caller_without_a_key() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        async with gateway_before(worker, Keys) as gateway:
            method = JsonCall(MESSAGES, gateway)
            context = KeptMessages(method.name, message("JsonRequest", path="/v1/models"))
            status = await Rpc(gateway, method, context).run()
    assert (status.code, status.reason) == (Code.UNAUTHENTICATED, "invalid_api_key")
    assert not context.was_read
    assert "request_id" in status.facts


TEXT = b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
FAILED = b'{"error":{"message":"The engine died","code":500}}'
END = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("events", "code", "reason"),
    [
        ((TEXT, END), Code.OK, ""),
        ((TEXT,), Code.UNAVAILABLE, "upstream_closed"),
        ((TEXT, FAILED), Code.UNAVAILABLE, "engine_error"),
    ],
)
async def test_done_is_said_of_a_stream_that_is_whole_and_no_other(
    events: tuple[bytes, ...], code: Code, reason: str
) -> None:
    body = b"".join(b"data: " + data + b"\n\n" for data in (*events, b"[DONE]"))
    answer = answer_of(body, content_type="text/event-stream")
    async with ScriptedWorker(answer) as worker, gateway_before(worker) as gateway:
        asked = message("JsonRequest", path="/v1/chat/completions", body=b"{}")
        status, chunks = await carried(gateway, JsonCall(MESSAGES, gateway), asked, "JsonChunk")
    assert (status.code, status.reason) == (code, reason)
    whole = [(b"", True)] if code is Code.OK else []
    assert [(one.json, one.done) for one in chunks] == [*((one, False) for one in events), *whole]
