"""A usage with something odd in it: each field counts for itself, and no call is free for it."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_plugins.usage.report.expected import expected
from hypothesis import example, given
from hypothesis import strategies as st
from support.gateways.capturing import capturing, chat

from gateway import Trace, Usage
from gateway.calls.token_count import TokenCounter
from gateway.kernel import active
from gateway.testing import DONE, GatewayFor, ScriptedWorker, answer_of, make_call, sse
from gateway.wire.reported import usage as reported
from gateway.wire.reported.usage import MAX_TOKENS

HUGE = 10**400
GOOD = {"prompt_tokens": 30, "completion_tokens": 20}


def counted(body: bytes, asked: dict[str, object] | None = None) -> Usage:
    streamed = body.startswith((b"data:", b"event:"))
    counter = TokenCounter(stream=streamed)
    counter.add(body)
    request = make_call(asked or {"messages": []}).body
    usage = counter.usage(request, active().functions)
    assert usage is not None
    return usage


def answer(usage: object, *choices: dict[str, Any]) -> bytes:
    said = choices or ({"index": 0, "message": {"content": "abcdefgh"}, "finish_reason": "stop"},)
    return json.dumps({"choices": said, "usage": usage}).encode()


def stream(usage: object, ids: int = 3) -> bytes:
    choice = {"index": 0, "delta": {"content": "a"}, "token_ids": [5], "prompt_token_ids": [1, 2]}
    last = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return sse({"choices": [choice]}) * ids + last + sse({"choices": [], "usage": usage}) + DONE


WHOLE: dict[str, tuple[dict[str, Any], Usage]] = {
    "text": ({"prompt_tokens": "30", "completion_tokens": " 20 "}, Usage(30, 20)),
    "floats": ({"prompt_tokens": 30.0, "completion_tokens": "20.0"}, Usage(30, 20)),
    "details as a list": ({**GOOD, "prompt_tokens_details": [1]}, Usage(30, 20, unread=True)),
    "details null": ({**GOOD, "prompt_tokens_details": None}, Usage(30, 20)),
    "cached as text": ({**GOOD, "prompt_tokens_details": {"cached_tokens": "8"}}, Usage(30, 20, 8)),
    "cached true": (
        {**GOOD, "prompt_tokens_details": {"cached_tokens": True}},
        Usage(30, 20, unread=True),
    ),
    "more cached than there are": ({**GOOD, "cached_tokens": 31}, Usage(30, 20, 30, unread=True)),
    "cached at the top": ({**GOOD, "cached_tokens": 8}, Usage(30, 20, 8)),
    "DeepSeek's": ({**GOOD, "prompt_cache_hit_tokens": 8}, Usage(30, 20, 8)),
    "Anthropic's beside OpenAI's": ({**GOOD, "cache_read_input_tokens": 8}, Usage(30, 20, 8)),
    "Anthropic's": (
        {"input_tokens": 22, "cache_read_input_tokens": 8, "output_tokens": 20},
        Usage(30, 20, 8),
    ),
    "responses": (
        {"input_tokens": 30, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 8}},
        Usage(30, 20, 8),
    ),
    "more reasoning than there is": (
        {**GOOD, "completion_tokens_details": {"reasoning_tokens": 21}},
        Usage(30, 20, 0, 20, unread=True),
    ),
    "an odd field of no interest": ({**GOOD, "cost": "much", "x": [HUGE]}, Usage(30, 20)),
    "a rest": ({"prompt_tokens": 30, "completion_tokens": [], "total_tokens": 50}, Usage(30, 20)),
    "another rest": (
        {"prompt_tokens": -1, "completion_tokens": 20, "total_tokens": 50},
        Usage(30, 20),
    ),
}


@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE)
def test_usage_is_read_field_by_field(case: tuple[dict[str, Any], Usage]) -> None:
    usage, expected = case
    for body in (answer(usage), stream(usage)):
        found = counted(body)
        assert (found.prompt_tokens, found.completion_tokens) == (30, 20)
        assert (found.cached_tokens, found.counted) == (expected.cached_tokens, False)
        assert found.unread == (expected.unread or "total_tokens" in usage)


ODD = [-1, 1.5, True, "many", "", [], {}, 2**32 + 1, 2**63, 2**64, HUGE, "9" * 40, "nan", "inf"]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_count_that_is_none_is_counted_in_the_response(name: str, odd: object) -> None:
    found = counted(stream({**GOOD, name: odd}))
    expected = {"prompt_tokens": 2, "completion_tokens": 3}[name]
    assert (getattr(found, name), found.unread) == (expected, True)
    plain = counted(answer({**GOOD, name: odd}))
    assert (getattr(plain, name) > 0, plain.unread) == (True, True)


@pytest.mark.parametrize("usage", ["none today", [30, 20], {"prompt_tokens": 0}, {}])
def test_usage_that_tells_nothing_makes_no_call_free(usage: object) -> None:
    assert counted(stream(usage)).completion_tokens == 3
    found = counted(answer(usage))
    assert found.prompt_tokens > 0
    assert found.completion_tokens == 3, "one for each four bytes of the text with its quotes"
    assert found.unread


def test_zeros_of_a_stream_with_tokens_are_not_believed() -> None:
    found = counted(stream({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}))
    assert (found.prompt_tokens, found.completion_tokens, found.unread) == (2, 3, True)


def test_usage_of_one_of_several_choices_yields_to_the_ids() -> None:
    def choice(index: int) -> dict[str, Any]:
        content = [{"logprob": -1.0, "id": 5}] * 12
        return {"index": index, "message": {"content": "a"}, "logprobs": {"content": content}}

    usage = {"prompt_tokens": 30, "completion_tokens": 12}
    found = counted(answer(usage, choice(0), choice(1)), {"messages": [], "n": 2})
    assert found == Usage(30, 24, unread=True)
    assert counted(answer({**usage, "completion_tokens": 24}, choice(0), choice(1))) == Usage(
        30, 24
    )


def test_cached_tokens_are_read_from_llama_cpp_s_timings() -> None:
    body = json.dumps({"choices": [], "usage": GOOD, "timings": {"cache_n": 29}}).encode()
    assert counted(body) == Usage(30, 20, 29)


def test_total_alone_is_the_prompt_s_if_nothing_was_generated() -> None:
    assert counted(b'{"results":[],"usage":{"total_tokens":7}}') == Usage(7, 0)


@pytest.mark.parametrize("around", [b'{"x":-Infinity,%b}', b'{%b,"x":NaN}', b'{%b, "x": [NaN]}'])
def test_usage_of_a_response_that_is_no_json_is_read(around: bytes) -> None:
    details = b'"prompt_tokens_details":{"cached_tokens":8}'
    usage = b'"usage":{"prompt_tokens":30,%b,"completion_tokens":20}' % details
    assert counted(around % usage) == Usage(30, 20, 8)


@pytest.mark.parametrize("more", [b'"x":NaN', b'"x":[Infinity],"y":{"z":-Infinity}'])
def test_number_that_json_does_not_have_hides_no_other_field(more: bytes) -> None:
    usage = b'{"prompt_tokens":30,%b,"completion_tokens":20}' % more
    assert counted(b'{"choices":[],"usage":%b}' % usage) == Usage(30, 20)


@pytest.mark.parametrize("word", [b"-Infinity", b"NaN"])
def test_tokens_with_an_impossible_logprob_count(word: bytes) -> None:
    logprobs = b'"logprobs":{"content":[{"token":"a","logprob":%b}]}' % word
    choice = b'"choices":[{"index":0,"delta":{},%b,"token_ids":[5],"prompt_token_ids":[1]}]'
    event = b"data: {%b}\n\n" % (choice % logprobs)
    assert counted(event * 3 + DONE) == Usage(1, 3, counted=True)
    plain = b"{%b}" % (choice % logprobs).replace(b"delta", b"message")
    assert counted(plain[:-1] + b',"usage":{"total_tokens":[]}}').completion_tokens == 1


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("usage", [Usage(4, 0), Usage(4, 2)])
def test_logprobs_of_an_echoed_prompt_are_no_completion(usage: Usage, echo: bool) -> None:
    logprobs = {"tokens": ["h", "i", "!"], "token_logprobs": [None, -0.1, -0.5]}
    choices = [{"index": one, "text": "hi!", "logprobs": logprobs} for one in (0, 1)]
    told = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    found = counted(answer(told, *choices), {"prompt": ["hi", "hi"], "echo": echo})
    assert found.unread != echo
    assert found.completion_tokens == (usage.completion_tokens if echo else 6)


def test_cut_message_is_counted_and_is_nothing_odd() -> None:
    begun = {"role": "assistant", "usage": {"input_tokens": 5, "output_tokens": 0}}
    start = b"event: message_start\n" + sse({"type": "message_start", "message": begun})
    delta = sse({"type": "content_block_delta", "delta": {"text": "a"}})
    assert counted(start + delta * 3) == Usage(5, 3, counted=True)
    end = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 0}}
    assert counted(start + sse(end)) == Usage(5, 0), "the event of the end is no token"


def test_later_event_replaces_what_an_earlier_one_told() -> None:
    odd = sse({"choices": [], "usage": {**GOOD, "completion_tokens": "?"}})
    assert counted(odd + sse({"choices": [], "usage": GOOD}) + DONE) == Usage(30, 20)
    assert counted(sse({"choices": [], "usage": GOOD}) + odd + DONE).unread


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("cached_tokens"), inner),
    max_leaves=3,
)
_NAMES = st.sampled_from(
    (
        *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"),
        *("cache_read_input_tokens", "prompt_tokens_details", "cached_tokens"),
    )
)


@example({"prompt_tokens": float("inf")})
@given(st.dictionaries(_NAMES, _VALUES))
def test_no_usage_is_out_of_bounds_or_free(usage: dict[str, Any]) -> None:
    for body in (answer(usage), stream(usage)):
        found = counted(body)
        assert 0 < found.total_tokens <= 2 * MAX_TOKENS
        assert 0 <= found.cached_tokens <= found.prompt_tokens


@pytest.mark.parametrize(
    "usage",
    [
        {**GOOD, "completion_tokens": 2**40},
        [1],
        GOOD,
        {"input_tokens": 1},
        {"prompt_tokens": "1_0"},
    ],
)
async def test_bill_and_trace_agree_about_an_odd_usage(
    usage: object, gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with ScriptedWorker(answer_of(answer(usage))) as worker:
        live = await capturing(gateway_for, tmp_path, "usage", workers=(worker.url,))
        await live.client.post("/sessions/s/v1/chat/completions", json=chat())
        [row] = (await live.client.get("/monitor/key_usage")).json()["data"]
        answered = await live.client.get("/sessions/s/traces")
    [trace] = msgspec.json.decode(answered.content, type=list[Trace])
    assert trace.token_counts == {
        "prompt": row["prompt_tokens"],
        "completion": row["completion_tokens"],
    }
    assert row["total_tokens"] > 0
    assert row["unread"] == (usage is not GOOD)


async def test_usage_outside_of_plain_json_is_in_bill_and_trace(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    body = answer(GOOD)[:-1] + b',"timings":{"cache_n":7}}'
    async with ScriptedWorker(answer_of(body)) as worker:
        live = await capturing(gateway_for, tmp_path, "usage", workers=(worker.url,))
        await live.client.post("/sessions/s/v1/chat/completions", json=chat())
        answered = await live.client.get("/sessions/s/traces")
    [trace] = msgspec.json.decode(answered.content, type=list[Trace])
    row = expected(trace, "internal").tokens
    assert row["prompt_tokens"] == trace.token_counts["prompt"] > 0
    assert row["cached_tokens"] == 7


async def test_usage_beside_an_embedding_of_nan_is_in_the_bill(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    body = b'{"data":[{"embedding":[NaN]}],"usage":{"prompt_tokens":3}}'
    async with ScriptedWorker(answer_of(body)) as worker:
        live = await capturing(gateway_for, tmp_path, "usage", workers=(worker.url,))
        await live.client.post("/sessions/s/v1/embeddings", json=chat())
        [row] = (await live.client.get("/monitor/key_usage")).json()["data"]
    assert row["prompt_tokens"] == 3


LEFT_OUT = object()
USAGES: tuple[object, ...] = (
    LEFT_OUT,
    None,
    [],
    "",
    "x",
    {},
    GOOD,
    {"prompt_tokens": "7"},
    {"unread": ["a"]},
)


def test_usage_is_the_same_in_one_decoding_and_in_several() -> None:
    parts = product(
        USAGES,
        (LEFT_OUT, None, {"usage": GOOD}, {"usage": [1]}),
        (LEFT_OUT, None, {"cache_n": 3}, {"cache_n": "x"}),
        ("", "x" * 1_200),
        ("", "-Infinity", "}"),
    )
    for usage, message, timings, text, after in parts:
        fields = {"text": text, "usage": usage, "message": message, "timings": timings}
        said = {name: value for name, value in fields.items() if value is not LEFT_OUT}
        body = json.dumps(said).encode() + after.encode()
        assert reported.read_usage(body) == reported._read_unusual(body), body
