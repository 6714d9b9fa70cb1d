import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.callers.seen_request import seen

from gateway import Attempt, Call, Headers, Outcome, hookimpl
from gateway.config import Worker
from gateway.pipeline.refused import MAX_HELD_RESPONSE_BYTES, named_in
from gateway.simulator import Simulator
from gateway.testing import DONE, GatewayFor, ScriptedWorker, answer_of, sse
from gateway.testing.worker import ScriptedConnection
from gateway.wire.injection import INJECTIONS, Injection

IDS: frozenset[Injection] = frozenset(["token_ids"])
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ANSWER = b'{"id":"a","choices":[{"index":0,"message":{"content":"x"},"token_ids":[1]}]}'
STRIPPED = ANSWER.replace(b"[1]", b"null")
PLAIN = ANSWER.replace(b',"token_ids":[1]', b"")
EVENTS = sse({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}) + DONE
OPENAI = "Unrecognized request argument supplied: {}"


class Injecting:
    """Injects everything, and keeps what the hooks that watch saw."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.attempts: list[Attempt] = []
        self.injected: list[Mapping[str, object]] = []
        self.started: list[int] = []
        self.data: list[bytes] = []

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject(*INJECTIONS)

    @hookimpl
    def observe(self, call: Call) -> object:
        return _Watcher(self)

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self.calls.append(call)
        self.injected.append(call.injected)


class _Watcher:
    def __init__(self, plugin: Injecting) -> None:
        self._plugin = plugin

    def started(self, status: int, headers: Headers) -> None:
        self._plugin.started.append(status)

    def data(self, chunk: bytes) -> None:
        self._plugin.data.append(chunk)


def refusal(message: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error"}})


class Picky(ScriptedWorker):
    """An engine that knows only some keys of a body: the first other one is named in a 400."""

    def __init__(self, *known: str, status: str = "400 Bad Request", words: str = OPENAI) -> None:
        super().__init__(self._serve)
        self._known = {"model", "messages", "prompt", "stream", *known}
        self._status = status
        self._words = words

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(seen(request).body) for request in self.requests]

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            body = msgspec.json.decode(seen(await connection.read_request()).body)
            await connection.write(self.answer(body))

    def answer(self, body: dict[str, Any]) -> bytes:
        unknown = [key for key in body if key not in self._known]
        if unknown:
            return answer_of(refusal(self._words.format(unknown[0])), status=self._status)
        if body.get("stream"):
            return answer_of(EVENTS, content_type="text/event-stream")
        return answer_of(ANSWER if body.get("return_token_ids") else PLAIN)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[ScriptedWorker]:
    """A worker with one answer for each request, the last one for all that follow."""
    left = list(answers)

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.write(left.pop(0) if len(left) > 1 else left[0])

    async with ScriptedWorker(script) as worker:
        yield worker


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity"])
@pytest.mark.parametrize(
    "words", [OPENAI, "Unsupported parameter: '{}'", "extra fields not permitted:\n{}", "body.{}"]
)
async def test_rejected_injection_is_retried_without_the_field(
    gateway_for: GatewayFor, status: str, words: str
) -> None:
    async with Picky("logprobs", status=status, words=words) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])

        answer = await live.client.post("/v1/chat/completions", json=CHAT)

    assert (answer.status_code, answer.content) == (200, PLAIN)
    assert worker.bodies == [
        {**CHAT, "return_token_ids": True, "logprobs": True},
        {**CHAT, "logprobs": True},
    ]
    plugin = live.plugin(Injecting)
    assert (plugin.started, b"".join(plugin.data)) == ([200], PLAIN)
    assert plugin.injected == [{"logprobs": True}]
    first, second = plugin.attempts
    assert (first.status, first.error, first.left_out) == (int(status[:3]), None, frozenset())
    assert (second.status, second.error, second.left_out) == (200, None, IDS)
    assert plugin.calls[0].attempts == [first, second]
    assert first.worker is second.worker
    assert first.worker.in_flight == 0


async def test_rejected_injection_is_remembered_per_worker_and_logged_once(
    gateway_for: GatewayFor, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with Picky() as picky:
        live = await gateway_for(Injecting, workers=[picky.url, simulator.url])
        with caplog.at_level(logging.WARNING, "gateway"):
            for _ in range(6):
                await live.client.post("/v1/chat/completions", json={**CHAT, "model": "sim"})

    assert len(picky.bodies) == 3 + 2  # the first call finds out, the other two know
    assert [len(body) for body in picky.bodies] == [4, 3, 2, 2, 2]
    plugin = live.plugin(Injecting)
    known = {"return_token_ids": True, "logprobs": True}
    assert sorted(map(len, plugin.injected)) == [0, 0, 0, 2, 2, 2]
    assert known in plugin.injected
    [record] = caplog.records
    worker = live.gateway.workers.all[0]
    assert record.getMessage().startswith(
        f"worker {worker.id} refuses logprobs, return_token_ids in chat calls"
    )


async def test_rejected_stream_options_are_left_out_of_later_calls(gateway_for: GatewayFor) -> None:
    async with Picky("return_token_ids", "logprobs") as worker:
        live = await gateway_for(Injecting, workers=[worker.url])

        for _ in range(2):
            answer = await live.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
            assert answer.content == EVENTS

    assert ["stream_options" in body for body in worker.bodies] == [True, False, False]


async def test_rejected_field_of_the_caller_is_not_left_out(gateway_for: GatewayFor) -> None:
    body = {**CHAT, "return_token_ids": True, "logprobs": True}
    async with Picky() as worker:
        live = await gateway_for(Injecting, workers=[worker.url])

        answer = await live.client.post("/v1/chat/completions", json=body)

    assert answer.content == refusal(OPENAI.format("return_token_ids"))
    assert len(worker.requests) == 1


async def test_error_that_quotes_the_body_is_not_remembered_as_a_rejection(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    quoting = answer_of(refusal("field required, got {'logprobs': True}"), status="400 Bad")
    other = answer_of(refusal("field required, got {}"), status="400 Bad")
    async with answering(quoting, other, answer_of(ANSWER)) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])

        first = await live.client.post("/v1/chat/completions", json=CHAT)
        second = await live.client.post("/v1/chat/completions", json=CHAT)

    assert (first.status_code, first.content) == (400, refusal("field required, got {}"))
    assert second.content == STRIPPED
    assert b'"logprobs":true' in worker.requests[-1]
    assert live.plugin(Injecting).started == [400, 200]
    assert not caplog.records


MISTAKES = [
    refusal("max_tokens must be positive"),
    refusal("`prompt_logprobs` are not available"),
    b"",
    b"\xff\x00 not json",
    b"x" * (MAX_HELD_RESPONSE_BYTES * 16) + b" logprobs",
]


@pytest.mark.parametrize("body", MISTAKES, ids=range(len(MISTAKES)))
async def test_unrelated_worker_error_is_forwarded_unchanged(
    gateway_for: GatewayFor, body: bytes
) -> None:
    async with ScriptedWorker(answer_of(body, status="400 Bad Request")) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])

        answer = await live.client.post("/v1/chat/completions", json=CHAT)

    assert (answer.status_code, answer.content) == (400, body)
    assert answer.headers["content-length"] == str(len(body))
    assert len(worker.requests) == 1
    plugin = live.plugin(Injecting)
    assert (plugin.started, b"".join(plugin.data)) == ([400], body)


@pytest.mark.parametrize("status", ["500 Oh", "401 No", "200 OK"])
async def test_other_status_is_not_taken_for_a_rejected_injection(
    gateway_for: GatewayFor, status: str
) -> None:
    body = refusal(OPENAI.format("return_token_ids"))
    async with ScriptedWorker(answer_of(body, status=status)) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])

        answer = await live.client.post("/v1/chat/completions", json=CHAT)

    assert answer.content == body
    assert len(worker.requests) == 1


async def test_truncated_rejection_is_an_upstream_error(gateway_for: GatewayFor) -> None:
    whole = answer_of(refusal(OPENAI.format("logprobs")), status="400 Bad Request")

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(whole[:-1])

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])
        answer = await live.client.post("/v1/chat/completions", json=CHAT)

    assert answer.json()["error"]["code"] == "upstream_closed"
    assert live.plugin(Injecting).started == []


async def test_rejected_injection_is_retried_only_once_per_call(
    gateway_for: GatewayFor,
) -> None:
    body = refusal("no return_token_ids, no logprobs, no stream_options, nothing")
    async with ScriptedWorker(answer_of(body, status="400 Bad Request")) as worker:
        live = await gateway_for(Injecting, workers=[worker.url])

        answer = await live.client.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert answer.content == body
    assert len(worker.requests) == 2


async def test_worker_with_inject_false_gets_no_injection(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Injecting, workers=[Worker(url=simulator.url, inject=False)])

    await live.client.post("/v1/chat/completions", json={**CHAT, "model": "sim"})

    plugin = live.plugin(Injecting)
    assert plugin.injected == [{}]
    assert plugin.started == [200]


async def test_call_set_and_inject_are_recorded_separately(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Injecting, Setting)

    await live.client.post("/v1/chat/completions", json=CHAT)

    [call] = live.plugin(Injecting).calls
    assert call.overwritten == {"model": "sim", "seed": 1}
    assert call.injected == {"return_token_ids": True, "logprobs": True}


class Setting:
    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.set("model", "sim")
        await call.set("seed", 1)


@given(st.text(), st.text())
def test_named_in_finds_only_whole_names_in_any_json(before: str, after: str) -> None:
    whole = msgspec.json.encode(f"{before} logprobs.{after}")
    part = msgspec.json.encode(f"{before.replace('logprobs', '')}prompt_logprobs_")

    assert "logprobs" in named_in(whole, INJECTIONS)
    assert "logprobs" not in named_in(part, INJECTIONS)
