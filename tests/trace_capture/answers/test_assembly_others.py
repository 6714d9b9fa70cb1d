"""Answers of other APIs, errors, and bytes that are no answer."""

import base64
import json
from typing import Any

import pytest
from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.answers.rebuild import choices_of, whole
from hypothesis import given
from hypothesis import strategies as st
from support.records.random_answers import some
from support.records.vllm_recordings import load

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/elsewhere",
)


def recorded(name: str) -> Assembled:
    exchange = load()[name]
    kinds = {value for key, value in exchange.headers if key.lower() == "content-type"}
    streamed = any("event-stream" in kind for kind in kinds)
    return assemble(exchange.path, exchange.body, streamed=streamed, status=exchange.status)


def again(answer: Assembled) -> Any:
    return whole(answer.skeleton, answer.parts)


def frames(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def test_assembly_of_a_responses_stream_is_its_last_response() -> None:
    answer = recorded("default/responses_stream")
    response = again(answer)
    assert (answer.done, answer.error, answer.events) == (True, None, 11)
    assert answer.response_id == response["id"] == "resp_b666ce2bc9e4019e"
    assert response["output"][0]["content"][0]["text"] == "�orch which ANDgithub──"
    assert (answer.model, answer.completion_tokens) == ("tiny", 6)


def test_assembly_of_a_broken_responses_stream_keeps_its_events() -> None:
    body = load()["default/responses_stream"].body
    answer = assemble("/v1/responses", body[: len(body) // 2], streamed=True)
    assert not answer.done
    assert answer.readable
    assert answer.response_id == "resp_b666ce2bc9e4019e"
    assert len(again(answer)["events"]) == answer.events


def test_assembly_finds_the_error_of_a_failed_response() -> None:
    response = {"id": "r", "status": "failed", "error": {"code": "x", "message": "no luck"}}
    body = frames({"type": "response.failed", "response": response})
    answer = assemble("/v1/responses", body, streamed=True)
    assert (answer.error, answer.done) == ("no luck", True)


def test_assembly_of_a_messages_stream_is_a_message_with_tools() -> None:
    answer = recorded("default/messages_tool_any_stream")
    message = again(answer)
    assert [block["input"] for block in message["content"]] == [True, True]
    assert message["content"][1]["name"] == "get_weather"
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"] == {"input_tokens": 165, "output_tokens": 80}
    assert (answer.done, answer.completion_tokens) == (True, 80)


def test_assembly_of_a_messages_stream_keeps_thinking_and_citations() -> None:
    def delta(index: int, **fields: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": {"type": "d", **fields}}

    text = {"type": "text", "text": "a", "citations": None}
    tool = {"type": "tool_use", "id": "t", "input": {}}
    body = frames(
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"x": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}},
        {"type": "ping"},
        delta(0, thinking="hm"),
        delta(0, thinking="m"),
        delta(0, signature="s1"),
        {"type": "content_block_start", "index": 1, "content_block": text},
        delta(1, text="b"),
        delta(1, citation={"url": "u"}),
        {"type": "content_block_start", "index": 2, "content_block": tool},
        delta(2, partial_json='{"a":'),
    )
    answer = assemble("/v1/messages", body, streamed=True)
    assert again(answer)["content"] == [
        {"type": "thinking", "thinking": "hmm", "signature": "s1"},
        {"type": "text", "text": "ab", "citations": [{"url": "u"}]},
        {**tool, "input": '{"a":'},
    ]
    assert not answer.done


def test_assembly_of_a_messages_stream_finds_the_error_of_a_dying_engine() -> None:
    answer = recorded("crash/kill9_worker_messages_stream")
    assert answer.error
    assert not answer.done
    assert again(answer)["content"][0]["text"]


def test_assembly_of_an_unknown_stream_keeps_its_events() -> None:
    body = (
        b"data: hello\n\n"
        + frames({"id": "x", "usage": {"output_tokens": 2}})
        + b"data: [DONE]\n\n"
    )
    answer = assemble("/elsewhere", body, streamed=True)
    assert again(answer) == {"events": ["hello", {"id": "x", "usage": {"output_tokens": 2}}]}
    assert (answer.response_id, answer.completion_tokens, answer.readable) == ("x", 2, True)


def test_assembly_keeps_bodies_that_are_no_json_object() -> None:
    assert again(assemble("/elsewhere", b"[1,2]", streamed=False)) == {"json": [1, 2]}
    assert again(assemble("/elsewhere", "hé".encode(), streamed=False)) == {"text": "hé"}
    assert again(assemble("/elsewhere", b"", streamed=False)) == {"text": ""}
    sound = b"\xff\x00RIFF"
    encoded = {"base64": base64.b64encode(sound).decode()}
    assert again(assemble("/v1/audio/speech", sound, streamed=False)) == encoded


@pytest.mark.parametrize("path", PATHS[:4])
@pytest.mark.parametrize("body", [b"", b"oops", b"[]", b"\xff", b'{"id": 1'])
def test_assembly_marks_an_invalid_response_unreadable(path: str, body: bytes) -> None:
    assert not assemble(path, body, streamed=False).readable


@pytest.mark.parametrize(
    "choices",
    [
        [{"token_ids": [2**31]}],
        [{"token_ids": [True]}],
        [{"token_ids": "12"}],
        [{"index": -1}],
        [{"logprobs": {"content": [{"token": 1, "logprob": 0}]}}],
        [{"logprobs": {"content": [{"logprob": 0}]}}],
        [{"finish_reason": 7}],
        ["x"],
        "x",
        None,
    ],
)
def test_assembly_keeps_mistyped_choices_but_marks_them_unreadable(choices: Any) -> None:
    sent = {"choices": choices}
    answer = assemble(PATHS[0], json.dumps(sent).encode(), streamed=False)
    assert (answer.readable, answer.parts) == (False, [])
    assert again(answer) == sent
    chunks = {"choices": choices if choices is not None else 0}
    assert not assemble(PATHS[0], frames(chunks, {"choices": []}), streamed=True).readable


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no", "code": 400}}, "no"),
        ({"error": "no"}, "no"),
        ({"error": {"reason": "no"}}, '{"reason":"no"}'),
        ({"detail": "Not Found"}, "Not Found"),
        ({"object": "error", "message": "no", "code": 400}, "no"),
        ({"type": "error", "error": {"type": "x", "message": "no"}}, "no"),
        ({"choices": []}, None),
    ],
)
def test_assembly_extracts_the_error_message(body: dict[str, Any], message: str | None) -> None:
    answer = assemble(PATHS[0], json.dumps(body).encode(), streamed=False, status=400)
    assert answer.error == message
    assert again(answer) == body


def test_assembly_takes_a_plain_text_body_as_the_error() -> None:
    answer = assemble(PATHS[0], b"Bad Gateway", streamed=False, status=502)
    assert (answer.error, again(answer)) == ("Bad Gateway", {"text": "Bad Gateway"})


KEYS = [
    *("choices", "index", "delta", "message", "content", "token_ids", "logprobs", "usage", "role"),
    *("tool_calls", "function", "arguments", "type", "error", "id", "response", "finish_reason"),
    *("tokens", "token_logprobs", "top_logprobs", "text_offset", "prompt_token_ids", "bytes", "x"),
    *("content_block", "metadata", "weight_version", "prompt_logprobs", "text"),
]
EVENT_TYPES = [
    *("message_start", "message_delta", "content_block_start", "content_block_delta"),
    *("response.completed", "response.failed", "error"),
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NASTY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
TYPED = st.tuples(st.sampled_from(EVENT_TYPES), NASTY)


@some
@given(st.sampled_from(PATHS), NASTY, st.lists(TYPED, max_size=4))
def test_assembly_never_raises_on_any_json(
    path: str, body: Any, events: list[tuple[str, Any]]
) -> None:
    plain = json.dumps(body).encode()
    typed = [{"type": kind, **(e if isinstance(e, dict) else {"delta": e})} for kind, e in events]
    for answer in (
        assemble(path, plain, streamed=False),
        assemble(path, b'{"choices":[%b]}' % plain, streamed=False),
        assemble(path, frames(body, *typed), streamed=True),
        assemble(path, frames({"choices": [body]}, {"choices": [{"delta": body}]}), streamed=True),
    ):
        assert again(answer) is not None
        choices_of(answer.skeleton, answer.parts)


@some
@given(st.sampled_from(PATHS), st.binary(max_size=60), st.booleans(), st.integers(0, 599))
def test_assembly_never_raises_on_any_bytes(
    path: str, body: bytes, streamed: bool, status: int
) -> None:
    for one in (body, b"data: " + body, b"{" + body, b"data: {" + body + b"}\n\n"):
        answer = assemble(path, one, streamed=streamed, status=status)
        assert again(answer) is not None


@pytest.mark.parametrize("path", PATHS)
def test_assembly_accepts_deep_nesting_and_huge_numbers(path: str) -> None:
    deep = b'{"choices":' + b"[" * 100_000
    closed = b'{"a":' * 900 + b"1" + b"}" * 900
    great = b'{"id":%d,"choices":[{"index":0,"x":%d}]}' % (10**40, 10**40)
    for body in (deep, closed, great, b'{"choices":[{"index":0,"delta":%b}]}' % closed):
        for streamed, sent in ((False, body), (True, b"data: %b\n\n" % body)):
            answer = assemble(path, sent, streamed=streamed)
            assert isinstance(again(answer), dict)


def test_assembly_of_a_long_stream_takes_linear_time() -> None:
    """Texts grow by pieces: with copying this would take minutes."""
    event = frames({"new": 1, "choices": [{"index": 0, "delta": {"odd": "x" * 100}}]})
    answer = assemble(PATHS[0], event * 20_000, streamed=True)
    message = choices_of(answer.skeleton, answer.parts)[0].message or {}
    assert len(message["odd"]) == 2_000_000
