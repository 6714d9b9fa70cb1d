"""Whatever a caller or an engine sends: translated, or refused in words, and never a crash."""

import contextlib
import itertools
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.callers.translating import TranslatingCaller
from gateway.testing import RecordingCaller, sse
from gateway.wire.translation.messages.request import Habits
from gateway.wire.translation.messages.translator import (
    MessagesResponse,
    messages_as_chat,
    messages_as_count,
)
from gateway.wire.translation.translation import Unreadable, Untranslatable

KNOWN = Habits(merges_system=False, effort_without_thinking="none")
STREAM = [(b"content-type", b"text/event-stream")]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)

TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
FULL: dict[str, Any] = {
    "model": "m",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "S"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "T"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "T", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [
                        {"type": "text", "text": "r"},
                        {"type": "image", "source": {"type": "url", "url": "http://x"}},
                        {"type": "tool_reference", "tool_name": "f"},
                    ],
                },
                {"type": "image", "source": {"media_type": "image/png", "data": "AA=="}},
            ],
        },
        {
            "role": "system",
            "content": [
                {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}},
                {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}},
            ],
        },
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"a": 1}}},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["x"],
    "stream": True,
    "temperature": 1,
    "top_k": 5,
    "top_p": 0.5,
    "cache_salt": "s",
    "chat_template_kwargs": {"a": 1},
    "vllm_xargs": {"a": 1},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path]
    for key, inner in items if isinstance(value, dict | list) else ():
        found += places(inner, (*path, key)) if isinstance(inner, dict | list) else [(*path, key)]
    return found


PLACES = [path for path in places(FULL) if path]


@given(place=st.sampled_from(PLACES), value=values)
def test_each_value_of_a_request_is_translated_or_refused(
    place: tuple[Any, ...], value: object
) -> None:
    asked = json.loads(json.dumps(FULL))
    inner = asked
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    body = json.dumps(asked, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        made = json.loads(messages_as_chat(body, KNOWN).body)
    except Untranslatable:
        return
    assert made["messages"]
    assert isinstance(made["model"], str)
    messages_as_count(body, KNOWN)


@given(body=st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_translated_or_refused(body: bytes) -> None:
    with contextlib.suppress(Untranslatable):
        messages_as_chat(body, KNOWN)


texts = st.sampled_from(["", "Hi", "é\u4e2d", '"\\', "\x00\x7f\n"]) | st.none()
calls = st.fixed_dictionaries(
    {"index": st.integers(0, 2)},
    optional={
        "id": st.sampled_from(["a", "b"]) | st.none(),
        "function": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["f", None]),
                "arguments": st.sampled_from(["{", "}"]),
            },
        ),
    },
)
deltas = st.fixed_dictionaries(
    {},
    optional={
        "content": texts,
        "reasoning": texts,
        "reasoning_content": texts,
        "tool_calls": st.lists(calls, max_size=2) | st.none(),
    },
)
choices = st.fixed_dictionaries(
    {"index": st.just(0), "delta": deltas},
    optional={
        "finish_reason": st.sampled_from([None, "stop", "length", "tool_calls", "abort"]),
        "stop_reason": st.sampled_from([None, "x", 7]),
    },
)
chunks = st.fixed_dictionaries(
    {"id": st.just("c"), "model": st.just("m"), "choices": st.lists(choices, max_size=1)},
    optional={"usage": st.just({"prompt_tokens": 3, "completion_tokens": 2}) | st.none()},
)
streams = st.lists(chunks, max_size=8)


async def carried(pieces: list[bytes]) -> bytes:
    caller = RecordingCaller()
    translator = MessagesResponse(keeps_arguments=True)
    translating = TranslatingCaller(caller, translator, "id", 1 << 20, streams=False)
    translating.start(200, STREAM)
    for piece in pieces[:-1]:
        translating.write(piece)
    await translating.end(pieces[-1])
    return b"".join(caller.chunks)


def unsigned(text: bytes) -> bytes:
    """Take out what is made by chance: signatures, and ids of calls that have none."""
    return re.sub(rb'(?<="signature":)"\w{32}"|"call_[0-9a-f]{24}"', b'""', text)


@given(stream=streams, cuts=st.lists(st.integers(0, 2000), max_size=10), done=st.booleans())
async def test_events_are_the_same_however_the_stream_is_cut(
    stream: list[dict[str, Any]], cuts: list[int], done: bool
) -> None:
    text = sse(*stream) + (b"data: [DONE]\n\n" if done else b"")
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    at_once = unsigned(await carried([text]))
    assert unsigned(await carried([*pieces, b""])) == at_once
    assert_sound(at_once)


def assert_sound(text: bytes) -> None:
    """Blocks are opened and closed in turn; the end is either message_stop or an error."""
    is_open, index, kinds = False, 0, []
    for event in text.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        told = json.loads(data.removeprefix("data: "))
        kinds.append(told["type"])
        assert name == f"event: {told['type']}"
        if told["type"] == "content_block_start":
            assert not is_open
            is_open = True
        if told["type"].startswith("content_block"):
            assert (is_open, told["index"]) == (True, index)
        if told["type"] == "content_block_stop":
            is_open, index = False, index + 1
    assert kinds[:1] in ([], ["message_start"], ["error"])
    assert kinds[-1] in ("message_stop", "error")
    assert kinds.count("message_stop") + kinds.count("error") == 1
    if "message_stop" in kinds:
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert not is_open


@given(data=st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_any_event_of_an_engine_is_translated(data: bytes) -> None:
    response = MessagesResponse(keeps_arguments=False)
    for text in (response.event(data), response.event(data), response.end(done=True)):
        assert text == b"" or text.endswith(b"\n\n")


@given(body=st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_any_answer_of_an_engine_is_translated_or_unreadable(body: bytes) -> None:
    response = MessagesResponse(keeps_arguments=False)
    with contextlib.suppress(Unreadable):
        msgspec.json.decode(response.answer(body))
    told = msgspec.json.decode(response.refusal(500, body, "id"))
    assert told["error"]["message"]


def test_arguments_that_are_not_utf8_are_refused() -> None:
    body = msgspec.json.encode(FULL).replace(b'{"a":1}', b'{"a":"\xff"}')
    for translated in (messages_as_chat, messages_as_count):
        with pytest.raises(Untranslatable, match="not UTF-8"):
            translated(body, KNOWN)
