"""What vLLM sends of /inference/v1/generate is read, and left as it would be without injections."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records.vllm_recordings import MORE, RecordedExchange, load

from gateway.calls.call import Call
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import EventReader
from gateway.plugins.chains import Chains, Failures
from gateway.testing import RecordingCaller
from gateway.wire.apis.token_api import GENERATE
from gateway.wire.injected_keys import INJECTIONS, Injection
from gateway.wire.injection import Stripper, inject
from gateway.wire.sse import Splitter

RECORDED = {**load(), **load(MORE)}
GENERATED = [one for one in RECORDED.values() if one.path in GENERATE.paths and one.status == 200]
STREAMED = [one for one in GENERATED if one.body.startswith(b"data:")]
ALL: frozenset[Injection] = frozenset(INJECTIONS)
DONE = b"data: [DONE]\n\n"


def events_of(stream: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def written(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def unasked(exchange: RecordedExchange, injected: frozenset[Injection]) -> bytes:
    """What the engine sends if nobody asks for what is injected, made by another way."""
    if exchange not in STREAMED:
        answer = json.loads(exchange.body)
        if "token_ids" in injected:
            answer["prompt_token_ids"] = None
        return written(without_logprobs(answer, injected))
    kept = []
    for event in events_of(exchange.body):
        if "token_ids" in injected:
            event.pop("prompt_token_ids", None)
        if event["choices"] or "usage" not in injected:
            kept.append(b"data: %b\n\n" % written(without_logprobs(event, injected)))
    return b"".join([*kept, DONE])


def without_logprobs(answer: dict[str, Any], injected: frozenset[Injection]) -> dict[str, Any]:
    for choice in answer["choices"] if "logprobs" in injected else ():
        choice["logprobs"] = None
    return answer


def strip(
    exchange: RecordedExchange, injected: frozenset[Injection], pieces: list[bytes] | None = None
) -> bytes:
    stripper = Stripper(injected, places=GENERATE.places)
    if exchange not in STREAMED:
        return stripper.plain(exchange.body)
    call = Call(RecordingCaller(), method="POST", path=exchange.path)
    reader = EventReader(Exchange(call, Chains(Failures())), stripper, 1 << 20)
    return b"".join(map(reader.feed, pieces or [exchange.body])) + reader.close()


@pytest.mark.parametrize("exchange", GENERATED, ids=lambda one: one.name)
@pytest.mark.parametrize("left_out", [None, *INJECTIONS])
def test_response_is_stripped_to_the_bytes_of_an_unasked_engine(
    exchange: RecordedExchange, left_out: Injection | None
) -> None:
    assert unasked(exchange, frozenset()) == exchange.body  # else the comparison says nothing
    injected = ALL - {left_out} if left_out is not None else ALL

    assert strip(exchange, injected) == unasked(exchange, injected)


@given(st.data())
def test_stream_is_stripped_alike_in_whatever_pieces_it_comes(data: st.DataObject) -> None:
    exchange = data.draw(st.sampled_from(STREAMED))
    injected = frozenset(data.draw(st.sets(st.sampled_from(INJECTIONS), min_size=1)))
    body = exchange.body
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=20))
    places = sorted({0, len(body), *cuts})

    pieces = [body[a:b] for a, b in pairwise(places)]

    assert strip(exchange, injected, pieces) == unasked(exchange, injected)


def test_events_of_an_unasked_engine_have_the_keys_of_stripped_ones() -> None:
    """The form of each is compared with what was recorded without any of it being asked."""
    unasked_event = events_of(RECORDED["generate/version_7_stream"].body)[0]
    asked = RECORDED["multi/tokens_turn1_true"]
    assert "prompt_token_ids" in events_of(asked.body)[0]

    first, *_ = events_of(strip(asked, ALL))

    assert list(first) == list(unasked_event)
    assert list(first["choices"][0]) == list(unasked_event["choices"][0])


def test_nothing_of_a_stream_is_held_back() -> None:
    """Its last event of a choice goes out at once, before the usage has come."""
    stripper = Stripper(ALL, places=GENERATE.places)
    events = Splitter().feed(RECORDED["random/generate_n4_stream"].body)
    sent = [stripper.event(event) for event in events]

    *choices, usage, done = sent
    assert all(choices)
    assert (usage, done) == (b"", DONE)


PARAMS = {"max_tokens": 3, "temperature": 0.7}


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (
            {"token_ids": [1], "sampling_params": PARAMS},
            {"return_token_ids": True, "sampling_params": {**PARAMS, "logprobs": 0}},
        ),
        (
            {"sampling_params": {**PARAMS, "logprobs": None}, "return_token_ids": True},
            {"sampling_params": {**PARAMS, "logprobs": 0}},
        ),
        (
            {"sampling_params": {"logprobs": 3}, "stream": True},
            {"return_token_ids": True, "stream_options": {"include_usage": True}},
        ),
        ({"sampling_params": {"logprobs": -1}}, {"return_token_ids": True}),
        ({"sampling_params": {"logprob_token_ids": [4]}}, {"return_token_ids": True}),
        ({"sampling_params": None}, {"return_token_ids": True}),
        ({"token_ids": [1]}, {"return_token_ids": True}),
        (
            {"sampling_params": {}, "stream": True, "stream_options": {"include_usage": True}},
            {"return_token_ids": True, "sampling_params": {"logprobs": 0}},
        ),
    ],
)
def test_injection_sets_nested_logprobs(body: dict[str, Any], changes: dict[str, Any]) -> None:
    found, stripper = inject(GENERATE, body, INJECTIONS)

    assert found.changes == changes
    assert stripper is not None
    assert stripper.injected == found.injected


def test_delta_has_the_id_and_the_sampled_tokens() -> None:
    exchange = RECORDED["random/generate_n4_stream"]
    events = Splitter().feed(exchange.body)
    deltas = [GENERATE.read_event(event.data) for event in events if event.data is not None]

    assert {delta.id for delta in deltas if not delta.done} == {"generate-tokens-852db9401beb2430"}
    assert deltas[0].choices[0].prompt_token_ids == [46, 728, 334]
    by_choice: dict[int, list[int]] = {}
    for delta in deltas:
        for choice in delta.choices:
            assert len(choice.token_ids) == len(choice.logprobs)
            by_choice.setdefault(choice.index, []).extend(choice.token_ids)
    assert {index: len(ids) for index, ids in by_choice.items()} == dict.fromkeys(range(4), 12)
    usage = deltas[-2].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 48)
