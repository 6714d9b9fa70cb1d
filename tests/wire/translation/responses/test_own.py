"""The engine's own Responses: passed on without the tokens, which are recorded."""

import contextlib

import msgspec
import pytest
from gateway_plugins.trace_capture.answers.assembly import assemble
from hypothesis import given
from hypothesis import strategies as st
from support.records.translated.responses import events_of, is_stream, recorded
from support.records.vllm_recordings import RecordedExchange

from gateway.wire.sse import Splitter
from gateway.wire.translation.responses.own import OwnResponse, own_responses
from gateway.wire.translation.translation import Unreadable, Untranslatable

TOLD = {
    one.name: one
    for one in (*recorded(streamed=True), *recorded(streamed=False))
    if b'"enable_response_messages": true' in one.request_body and b'"tokens":[' in one.body
}


def final(exchange: RecordedExchange) -> dict[str, list[dict[str, list[int]]]]:
    if is_stream(exchange):
        response = events_of(exchange.body)[-1]["response"]
    else:
        response = msgspec.json.decode(exchange.body)
    assert isinstance(response, dict)
    return response


def passed_on(exchange: RecordedExchange) -> bytes:
    way = OwnResponse()
    if not is_stream(exchange):
        return way.answer(exchange.body)
    splitter = Splitter()
    events = [*splitter.feed(exchange.body), *splitter.close()]
    sent = b"".join(way.event(one.data) for one in events if one.data is not None)
    assert b"response.completed" not in sent
    return sent + way.end(done=False)


@pytest.mark.parametrize("name", TOLD)
def test_only_the_tokens_are_taken_out(name: str) -> None:
    exchange = TOLD[name]
    out = passed_on(exchange)
    ours = events_of(out) if is_stream(exchange) else [msgspec.json.decode(out)]
    theirs = (
        events_of(exchange.body) if is_stream(exchange) else [msgspec.json.decode(exchange.body)]
    )
    last = theirs[-1].get("response", theirs[-1])
    last["input_messages"] = last["output_messages"] = None
    assert ours == theirs


@pytest.mark.parametrize("name", TOLD)
def test_all_tokens_are_recorded(name: str) -> None:
    exchange, told = TOLD[name], final(TOLD[name])
    record = assemble("/v1/responses", exchange.body, streamed=is_stream(exchange))
    [part] = record.parts
    assert part.prompt_token_ids == told["input_messages"][0]["tokens"]
    assert part.token_ids == told["output_messages"][0]["tokens"]
    assert part.logprobs == []


def test_the_request_asks_for_the_tokens() -> None:
    made = own_responses(b'{"input": "Hi", "x": [1,  2]}')
    assert made.body == b'{"input":"Hi","x":[1,  2],"enable_response_messages":true}'
    assert made.path == "/v1/responses"
    for body in (b'{"input": "Hi", "background": true}', b"[]"):
        with pytest.raises(Untranslatable):
            own_responses(body)


@given(st.binary(max_size=40) | st.sampled_from([b'{"type":"response.completed"}', b"{}"]))
def test_no_bytes_raise(data: bytes) -> None:
    way = OwnResponse()
    way.event(data)
    way.end(done=False)
    with contextlib.suppress(Unreadable):
        way.answer(data)


def test_half_a_surrogate_pair_is_left_to_the_engine() -> None:
    with pytest.raises(Untranslatable):
        own_responses(rb'{"model": "m", "input": "\ud83d"}')
