"""Answers that a `handle` hook gives in a worker's place."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.gateways.dispatching import chat, dispatch, gateway_of, mid_stream_code, plugin_of
from support.plugins.recording_plugin import Watcher, until

from gateway import Answer, Call, Forbidden, Gateway, Headers, hookimpl
from gateway.config import Timeouts
from gateway.testing import (
    DONE,
    RecordedCall,
    sse,
)

SHORT = Timeouts(idle=0.1)
SSE: Headers = [(b"content-type", b"text/event-stream")]
JSON: Headers = [(b"content-type", b"application/json")]
EVENT = sse({"choices": []})


class Canned:
    """Answers with what the test puts into `answer`."""

    answer = Answer()

    @hookimpl
    async def handle(self, call: Call) -> Answer:
        return self.answer


async def handled(gateway: Gateway, answer: Answer, call: RecordedCall | None = None) -> Call:
    plugin_of(gateway, Canned).answer = answer
    return await dispatch(gateway, call)


async def events(*after: Exception) -> AsyncIterator[bytes]:
    for _ in range(3):
        yield EVENT
    for error in after:
        raise error
    yield DONE


async def test_handle_hook_returns_a_plain_answer_without_a_worker() -> None:
    async with gateway_of(Canned, Watcher) as gateway:
        call = chat()
        await handled(gateway, Answer(201, JSON, b"{}"), call)
        assert plugin_of(gateway, Watcher).attempts == []
    assert (call.caller.status, call.caller.body, call.caller.is_ended) == (201, b"{}", True)
    assert call.outcome.complete
    assert (b"x-request-id", call.id.encode()) in call.caller.headers


async def test_handle_hook_streams_an_answer_without_a_worker() -> None:
    async with gateway_of(Canned) as gateway:
        call = chat()
        await handled(gateway, Answer(headers=SSE, body=events()), call)
    assert call.caller.chunks == [EVENT, EVENT, EVENT, DONE]
    assert call.outcome.complete


@pytest.mark.parametrize(
    ("error", "code"),
    [(Forbidden("enough"), "permission_denied"), (ValueError("oops"), "internal_error")],
)
async def test_handle_hook_stream_that_fails_ends_with_an_error(
    error: Exception, code: str
) -> None:
    async with gateway_of(Canned) as gateway:
        call = chat()
        await handled(gateway, Answer(headers=SSE, body=events(error)), call)
    assert call.caller.body.startswith(EVENT * 3)
    assert mid_stream_code(call) == code
    assert not call.outcome.complete


async def silent() -> AsyncIterator[bytes]:
    yield EVENT
    await asyncio.Event().wait()


async def test_handle_hook_stream_times_out_when_silent() -> None:
    async with gateway_of(Canned, timeouts=SHORT) as gateway:
        call = chat()
        await handled(gateway, Answer(headers=SSE, body=silent()), call)
    assert mid_stream_code(call) == "upstream_idle_timeout"


async def test_handle_hook_stream_waits_for_a_slow_caller() -> None:
    async with gateway_of(Canned) as gateway:
        call = chat()
        call.caller.is_full = True
        answer = Answer(headers=SSE, body=events())
        running = asyncio.create_task(handled(gateway, answer, call))
        for count in (1, 2, 3):
            await until(lambda count=count: len(call.caller.chunks) == count)  # type: ignore[misc]
            call.caller.drained()
        await running
    assert call.caller.body == EVENT * 3 + DONE


async def test_handle_hook_stream_is_cut_if_the_caller_reads_nothing() -> None:
    async with gateway_of(Canned, timeouts=SHORT) as gateway:
        call = chat()
        call.caller.is_full = True
        await handled(gateway, Answer(headers=SSE, body=events()), call)
    assert call.caller.chunks == [EVENT]
    assert call.caller.is_cut
    assert call.outcome.caller_gone
