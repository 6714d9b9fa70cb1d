"""The tokens of a call, as the engine tells them and as they are counted where it does not."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plugins.recording_plugin import Watcher
from support.records.storage_sinks import Notes
from support.records.vllm_recordings import RecordedExchange, load
from support.records.worker_answers import cut, places

from gateway import Call, Usage, hookimpl
from gateway.calls.observers import Observers
from gateway.calls.token_count import TokenCounter
from gateway.kernel import active
from gateway.testing import DONE, GatewayFor, make_call, sse
from gateway.wire.reported.usage import MAX_TOKENS

RECORDED = {name: one for name, one in load().items() if one.method == "POST" and one.body}
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]


def counted(
    *chunks: bytes,
    headers: list[tuple[bytes, bytes]] = EVENTS,
    status: int = 200,
    asked: dict[str, object] | bytes | None = None,
) -> Usage | None:
    call = make_call(asked)
    observers = Observers(
        (), _fail, call.outcome, call.log_extra, counts_tokens=True, functions=active().functions
    )
    observers.notify_started(status, headers, events=headers == EVENTS)
    for chunk in chunks:
        observers.feed(chunk)
    observers.notify_finished(call.body)
    return call.outcome.usage


def is_stream(exchange: RecordedExchange) -> bool:
    return exchange.body.startswith((b"data:", b"event:"))


def in_words(body: bytes) -> Iterator[dict[str, Any]]:
    """Each `usage` that is told, found without the gateway's readers."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines()]
    for line in lines if body.startswith((b"data:", b"event:")) else [body]:
        if b'"usage"' in line and line.startswith(b"{"):
            answer = json.loads(line)
            usage = answer.get("usage") or (answer.get("response") or {}).get("usage")
            if isinstance(usage, dict):
                yield usage


TOLD = {
    name: usage
    for name, one in RECORDED.items()
    if one.status == 200 and (usage := next(iter([*in_words(one.body)][-1:]), None))
}


@pytest.mark.parametrize("name", TOLD)
def test_usage_is_read_from_a_recorded_engine_response(name: str) -> None:
    exchange, told = RECORDED[name], TOLD[name]
    usage = counted(exchange.body, headers=EVENTS if is_stream(exchange) else JSON)
    assert usage is not None
    assert not usage.counted
    cached = [told.get(f"cache_{what}_input_tokens") or 0 for what in ("read", "creation")]
    assert usage.prompt_tokens == told.get("prompt_tokens", told.get("input_tokens", 0)) + sum(
        cached
    )
    completion = told.get("completion_tokens", told.get("output_tokens", 0))
    assert usage.completion_tokens == (completion or 0)


WITH_IDS = [
    name
    for name, one in RECORDED.items()
    if name in TOLD and is_stream(one) and b'"token_ids":[' in one.body and "completion" in one.path
]


@pytest.mark.parametrize("name", WITH_IDS)
def test_usage_is_counted_from_token_ids_of_a_stream_without_it(name: str) -> None:
    """By their ids they are as many as the engine says of the same stream."""
    exchange, told = RECORDED[name], TOLD[name]
    events = [one + b"\n\n" for one in exchange.body.split(b"\n\n") if one]
    rest = [one for one in events if b'"usage":{' not in one and b"[DONE]" not in one]
    usage = counted(*rest, asked=exchange.request_body)
    assert usage is not None
    assert usage.counted
    assert usage.completion_tokens == told["completion_tokens"]
    assert usage.prompt_tokens == told["prompt_tokens"]


def chat(content: str, **more: object) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": content}, **more}]})


FIRST = sse({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})


def test_usage_counts_events_with_content_without_token_ids() -> None:
    thought = sse({"choices": [{"index": 1, "delta": {"reasoning": "hm"}}]})
    called = sse({"choices": [{"index": 1, "delta": {"tool_calls": [{"index": 0}]}}]})
    usage = counted(FIRST, chat("a"), chat(""), thought, called, chat("b")[:-9])
    assert usage == Usage(make_call().prompt_estimate, 3, counted=True)
    assert usage.prompt_tokens > 0


def test_usage_counts_logprobs_without_token_ids() -> None:
    two = chat("ab", logprobs={"content": [{"logprob": -1.0}, {"logprob": -2.0}]})
    usage = counted(FIRST, two)
    assert usage is not None
    assert usage.completion_tokens == 2


def test_usage_counts_a_prompt_shared_by_choices_once() -> None:
    def ids(index: int) -> bytes:
        choice = {"index": index, "text": "a", "prompt_token_ids": [1, 2, 3], "token_ids": [4]}
        return sse({"choices": [choice]})

    asked: dict[str, object] = {"prompt": ["a", "b"], "n": 2}
    usage = counted(*map(ids, range(4)), asked=asked)
    assert usage == Usage(6, 4, counted=True)


@given(places, st.integers(0, 400))
def test_usage_does_not_depend_on_chunk_boundaries(at: list[int], long: int) -> None:
    stream = FIRST + chat("x" * long) + chat("b") + USAGE + DONE
    assert counted(*cut(stream, at)) == Usage(7, 2)


@given(st.integers(0, 5_000))
def test_token_counter_buffers_little_of_a_long_stream(tokens: int) -> None:
    counter = TokenCounter(stream=True)
    event = chat("x" * 200, token_ids=[5])
    for _ in range(tokens):
        counter.add(event)
        assert counter.room >= 0
    assert counter.so_far == tokens
    usage = counter.usage(make_call().body, active().functions)
    assert usage is not None
    assert (usage.completion_tokens, usage.counted) == (tokens, True)


def test_usage_of_a_cut_stream_is_the_latest_from_the_engine() -> None:
    def so_far(count: int) -> bytes:
        return chat("a")[:-3] + b',"usage":{"prompt_tokens":7,"completion_tokens":%d}}\n\n' % count

    assert counted(so_far(1), so_far(2), chat("c")) == Usage(7, 2)


def test_usage_combines_anthropic_message_start_and_delta() -> None:
    begun = {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 1}
    events = [
        sse({"type": "message_start", "message": {"role": "assistant", "usage": begun}}),
        sse({"type": "content_block_delta", "delta": {"text": "a"}}),
        sse({"type": "message_delta", "usage": {"output_tokens": 9}}),
        sse({"type": "message_stop"}),
    ]
    assert counted(*events) == Usage(8, 9, cached_tokens=3)


def test_usage_includes_cached_and_reasoning_tokens() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    body = json.dumps({"choices": [], "usage": usage}).encode()
    assert counted(body, headers=JSON) == Usage(10, 4, 8, 3)


@pytest.mark.parametrize("body", [b"", b"{", b'{"usage":null}', b'{"usage":[]}', b"[1]", b'"x"'])
def test_usage_is_none_if_a_response_has_none(body: bytes) -> None:
    assert counted(body, headers=JSON) is None


def test_usage_is_none_for_errors_and_compressed_responses() -> None:
    body = b'{"usage":{"prompt_tokens":1}}'
    assert counted(body, headers=JSON, status=429) is None
    assert counted(body, headers=[*JSON, (b"content-encoding", b"gzip")]) is None


@given(st.binary() | st.integers().map(lambda n: b'{"usage":{"prompt_tokens":%d}}' % n))
def test_usage_stays_within_bounds_for_any_response(data: bytes) -> None:
    for usage in _both(data):
        if usage is not None:
            assert 0 <= usage.prompt_tokens <= MAX_TOKENS
            assert 0 <= usage.completion_tokens <= MAX_TOKENS


def _both(data: bytes) -> Iterable[Usage | None]:
    return counted(data, headers=JSON), counted(b"data: " + data + b"\n\n")


def test_usage_is_of_the_last_attempt() -> None:
    call = make_call()
    observers = Observers(
        (), _fail, call.outcome, call.log_extra, counts_tokens=True, functions=active().functions
    )
    observers.notify_started(200, EVENTS, events=True)
    observers.feed(chat("a"))
    observers.notify_started(200, JSON, events=False)
    observers.feed(b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}')
    observers.notify_finished(call.body)
    assert call.outcome.usage == Usage(1, 2)


def _fail(*what: object) -> None:
    raise AssertionError(what)


class Counted:
    """A plugin that has the tokens of each call counted."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        call.count_tokens()


@pytest.mark.parametrize("method", ["add", "usage"])
async def test_call_completes_despite_a_failing_token_counter(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(TokenCounter, method, broken)
    live = await gateway_for(Counted, Watcher)
    body = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    for stream in (False, True):
        answer = await live.client.post("/v1/chat/completions", json=body | {"stream": stream})
        assert answer.is_success
        outcome = live.plugin(Watcher).outcomes[-1]
        assert (outcome.complete, outcome.usage, outcome.failures) == (True, None, ["core"])


def test_call_waits_for_commit_only_of_rows_not_lazy() -> None:
    call = make_call()
    assert not call.waits_for_commit
    call.store(Notes(), "a", 1, lazy=True)
    assert not call.waits_for_commit
    call.store(Notes(), "b", 1)
    assert call.waits_for_commit
