"""Errors of translated Messages, and of those that end before: in Anthropic's envelope."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from support.callers.raw_client import CutShort, RawClient
from support.workers.by_path import ByPath, said

from gateway import Call, NoWorker, TooManyRequests, Worker, hookimpl
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, sse

TRANSLATE = "gateway_plugins.translate:Translate"
PATH = "/sessions/s/v1/messages"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEAD: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "model": "sim"}
ROLE = {**HEAD, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
TEXT = {**HEAD, "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
CALL = {"id": "t", "index": 0, "function": {"name": "f", "arguments": '{"a'}}
HALF = {**HEAD, "choices": [{"index": 0, "delta": {"tool_calls": [CALL]}}]}


def asked(**fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "sim", "max_tokens": 5, "messages": messages, **fields}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    told = answer.json()
    assert told["type"] == "error"
    assert told["request_id"] == answer.headers["x-request-id"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    return dict(told["error"])


def names(text: str) -> list[str]:
    return [line[7:] for line in text.splitlines() if line.startswith("event: ")]


class Late:
    """Rejects calls in `prepare`: after they were translated."""

    @hookimpl
    def prepare(self, call: Call) -> None:
        raise TooManyRequests("slowly", headers=((b"retry-after", b"7"),))


class Early:
    @hookimpl
    def admit(self, call: Call) -> None:
        raise TooManyRequests("slowly", headers=((b"retry-after", b"7"),))


class Keeping:
    """Has each call wait for a comment before its first attempt."""

    @hookimpl
    def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        call.keep_alive()
        return workers


class Refusing:
    @hookimpl
    def pick_worker(self, call: Call) -> Worker:
        raise NoWorker("nobody has room")


class Keys:
    @hookimpl
    def authenticate(self, call: Call) -> None:
        return None


async def ask(live: Live, **fields: object) -> httpx.Response:
    return await live.client.post(PATH, json=asked(**fields))


@pytest.mark.parametrize("rejecting", [Early, Late])
async def test_rejected_message_has_the_envelope_and_the_time_to_wait(
    gateway_for: GatewayFor, rejecting: type
) -> None:
    answer = await ask(await gateway_for("sessions", rejecting, TRANSLATE))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    told = {"type": "rate_limit_error", "message": "slowly", "code": "rate_limit_exceeded"}
    assert error_of(answer) == told


async def test_caller_of_messages_without_a_key_gets_the_envelope(gateway_for: GatewayFor) -> None:
    answer = await ask(await gateway_for("sessions", Keys, TRANSLATE))
    assert answer.status_code == 401
    assert error_of(answer)["type"] == "authentication_error"


async def test_message_without_a_worker_gets_the_envelope(gateway_for: GatewayFor) -> None:
    answer = await ask(await gateway_for("sessions", TRANSLATE, workers=()))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert error_of(answer)["type"] == "overloaded_error"


async def test_error_of_the_engine_keeps_its_words(gateway_for: GatewayFor) -> None:
    error = {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}
    engine = ByPath({"/v1/chat/completions": said({"error": error}, "400 Bad Request")})
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for("sessions", TRANSLATE, workers=[worker.url])
        answer = await ask(live)
    assert answer.status_code == 400
    assert error_of(answer) == {"type": "BadRequestError", "message": "too long"}


@pytest.mark.parametrize("body", [b"{}", b"nonsense", b'{"choices":[]}'])
async def test_answer_that_is_no_chat_is_an_error(gateway_for: GatewayFor, body: bytes) -> None:
    engine = ByPath({"/v1/chat/completions": said(None)})
    engine.answers["/v1/chat/completions"] = (
        said(None)
        .replace(b"null", body)
        .replace(b"content-length: 4", b"content-length: %d" % len(body))
    )
    async with ScriptedWorker(engine.script) as worker:
        live = await gateway_for("sessions", TRANSLATE, workers=[worker.url])
        answer = await ask(live)
    assert answer.status_code == 502
    assert error_of(answer)["type"] == "api_error"


async def streamed(
    gateway_for: GatewayFor, events: bytes, *plugins: type, whole: bool, **settings: Any
) -> tuple[str, bool]:
    """What a caller gets of a stream with these events, and whether it was whole."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        chunk = b"%x\r\n%b\r\n" % (len(events), events)
        await connection.write(STREAM + chunk + (b"0\r\n\r\n" if whole else b""))
        if whole:
            await asyncio.Event().wait()

    async with ScriptedWorker(script) as worker:
        live = await gateway_for("sessions", *plugins, TRANSLATE, workers=[worker.url], **settings)
        host, _, port = live.url.removeprefix("http://").partition(":")
        async with RawClient(host, int(port)) as client:
            body = json.dumps(asked(stream=True)).encode()
            headers = [(b"content-type", b"application/json")]
            try:
                answer = await client.ask("POST", PATH, headers, body)
            except CutShort as short:
                return short.answer.body.decode(), False
            return answer.body.decode(), True


@pytest.mark.parametrize("tells", [False, True])
async def test_stream_that_breaks_off_never_ends_with_message_stop(
    gateway_for: GatewayFor, tells: bool
) -> None:
    setting = "event" if tells else "close"
    text, whole = await streamed(gateway_for, sse(ROLE, TEXT), whole=False, stream_errors=setting)
    assert not whole
    assert names(text)[:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert names(text)[3:] == (["error"] if tells else [])
    if tells:
        error = json.loads(text.rpartition("data: ")[2])["error"]
        assert (error["type"], "server error" in error["message"]) == ("api_error", True)


@pytest.mark.parametrize("last", [sse({"error": {"message": "died", "code": 500}}), sse(HALF), b""])
async def test_stream_that_the_engine_ends_without_a_finish_is_no_message(
    gateway_for: GatewayFor, last: bytes
) -> None:
    events = sse(ROLE, TEXT) + last + b"data: [DONE]\n\n"
    text, _ = await streamed(gateway_for, events, whole=True)
    assert "message_stop" not in names(text)
    assert "message_delta" not in names(text)


async def test_comments_before_a_message_are_pings(gateway_for: GatewayFor) -> None:
    finish = {**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events = sse(ROLE, TEXT, finish) + b"data: [DONE]\n\n"
    text, whole = await streamed(gateway_for, events, Keeping, whole=True)
    assert whole
    assert names(text)[:2] == ["ping", "message_start"]
    assert names(text)[-2:] == ["message_delta", "message_stop"]


async def test_error_after_a_ping_is_an_event(gateway_for: GatewayFor) -> None:
    text, whole = await streamed(gateway_for, b"", Keeping, Refusing, whole=True)
    assert not whole
    assert names(text) == ["ping", "error"]
