"""Requests of Responses become the chat that vLLM makes of them inside, or are not translated."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.translation.responses.sealed_reasoning import seal
from gateway.wire.translation.responses.translator import responses_as_chat
from gateway.wire.translation.translation import Untranslatable

Json = Any

USER = {"role": "user", "content": "Hello"}


def chat_of(**fields: Json) -> Json:
    asked = {"model": "m", "input": "Hello", **fields}
    return msgspec.json.decode(responses_as_chat(msgspec.json.encode(asked)).body)


def messages_of(*items: Json, **fields: Json) -> Json:
    return chat_of(input=list(items), **fields)["messages"]


def reason_for(**fields: Json) -> str:
    with pytest.raises(Untranslatable) as refused:
        chat_of(**fields)
    return refused.value.reason


def call(name: str = "f", **fields: Json) -> Json:
    made = {"type": "function_call", "call_id": "c1", "name": name, "arguments": "{}"}
    return {**made, **fields}


def test_text_is_a_users_message_after_the_instructions() -> None:
    assert chat_of(instructions="Be short.") == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be short."}, USER],
    }


def test_reasoning_text_and_calls_that_follow_each_other_are_one_message() -> None:
    made = messages_of(
        USER,
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
        call(),
        call(call_id="c2", namespace="n"),
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
    )
    names = ("f", "n__f")
    calls = [
        {"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for at, name in enumerate(names, 1)
    ]
    answer = {"role": "assistant", "content": "A", "reasoning": "Hm", "tool_calls": calls}
    assert made == [USER, answer, {"role": "tool", "content": "one", "tool_call_id": "c1"}]


def test_a_second_text_or_reasoning_begins_a_new_message() -> None:
    said = {"role": "assistant", "content": "A"}
    thought = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "S"}]}
    assert messages_of(said, said, thought, thought) == [
        said,
        {**said, "reasoning": "S"},
        {"role": "assistant", "reasoning": "S"},
    ]


def test_parts_become_those_of_chat() -> None:
    parts = [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "data:x", "detail": "low"},
        {"type": "input_file", "file_data": "data:y", "filename": "a.pdf"},
    ]
    (message,) = messages_of({"role": "developer", "content": parts})
    assert message["role"] == "developer"
    assert message["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:y", "filename": "a.pdf"}},
    ]


def test_encrypted_reasoning_of_ours_comes_back_and_of_others_is_left_out() -> None:
    kept: Json = {"type": "reasoning", "id": "r", "summary": [], "content": None}
    others = {**kept, "encrypted_content": "Z0FBQUFB"}
    ours = {**kept, "encrypted_content": seal("Hm ✓")}
    assert messages_of(USER, others) == [USER]
    assert messages_of(USER, ours)[1] == {"role": "assistant", "reasoning": "Hm ✓"}


def test_a_damaged_seal_is_another_servers() -> None:
    damaged = seal("Hm")[:-3] + "#"
    item = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": damaged}
    assert messages_of(USER, item) == [USER]


def test_an_unfinished_answer_is_continued() -> None:
    half = {"type": "message", "role": "assistant", "content": "Half", "status": "incomplete"}
    made = chat_of(input=[USER, half])
    assert (made["continue_final_message"], made["add_generation_prompt"]) == (True, False)


TOOLS = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False},
    {"type": "web_search"},
    {"type": "custom", "name": "free", "description": "Text"},
    {"type": "namespace", "name": "n", "description": "N", "tools": [
        {"type": "function", "name": "g", "parameters": {}}]},
]  # fmt: skip


def test_tools_are_those_that_vllm_shows() -> None:
    functions = [tool["function"] for tool in chat_of(tools=TOOLS)["tools"]]
    assert [one["name"] for one in functions] == ["f", "free", "n__g"]
    assert functions[0]["strict"] is False
    assert functions[1]["parameters"]["required"] == ["input"]


def test_tools_that_no_model_sees_leave_no_tools() -> None:
    assert "tools" not in chat_of(tools=[{"type": "web_search"}], tool_choice="auto")


@pytest.mark.parametrize(
    ("chosen", "made"),
    [
        ("required", "required"),
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "name": "g"}, "n__g"),
        ({"type": "custom", "name": "free"}, "free"),
    ],
)
def test_tool_choice_names_the_tool_that_chat_has(chosen: Json, made: str) -> None:
    named = {"type": "function", "function": {"name": made}}
    found = chat_of(tools=TOOLS, tool_choice=chosen)["tool_choice"]
    assert found == (made if isinstance(chosen, str) else named)


def test_output_fields_have_chats_names() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}
    made = chat_of(
        stream=True,
        max_output_tokens=7,
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        truncation="auto",
    )
    assert made["stream_options"] == {"include_usage": True}
    assert made["max_completion_tokens"] == 7
    wanted = {"name": "n", "schema": {"a": 1}, "strict": True}
    assert made["response_format"] == {"type": "json_schema", "json_schema": wanted}
    assert (made["logprobs"], made["top_logprobs"]) == (True, 2)
    assert (made["reasoning_effort"], made["verbosity"]) == ("low", "low")
    assert made["truncate_prompt_tokens"] == -1


def test_top_logprobs_alone_ask_for_nothing() -> None:
    assert "logprobs" not in chat_of(top_logprobs=2)


SAME = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 4, "stop": ["a"],
    "presence_penalty": 1.0, "frequency_penalty": 1.0, "repetition_penalty": 1.1,
    "stop_token_ids": [1], "ignore_eos": True, "skip_special_tokens": False,
    "include_stop_str_in_output": True, "include_reasoning": False, "logit_bias": {"1": 2},
    "priority": 1, "session_id": "s", "cache_salt": "c", "chat_template_kwargs": {"a": 1},
    "structured_outputs": {"regex": "a"}, "vllm_xargs": {"a": 1}, "service_tier": "auto",
    "prompt_cache_key": "k", "safety_identifier": "i", "user": "u", "watermarking": True,
    "media_io_kwargs": {"image": {}}, "mm_processor_kwargs": {"a": 1},
}  # fmt: skip


def test_other_fields_keep_their_names() -> None:
    made = chat_of(**SAME)
    assert {name: made[name] for name in SAME} == SAME


def test_fields_that_chat_heeds_and_responses_does_not_are_left_out() -> None:
    made = chat_of(n=4, messages=[], max_tokens=1, echo=True, unknown=1)
    assert made == {"model": "m", "messages": [USER]}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"previous_response_id": "resp_1"}, "a server keeps"),
        ({"background": True}, "a server keeps"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"previous_input_messages": []}, "previous_input_messages"),
        ({"enable_response_messages": True}, "enable_response_messages"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]: "),
        ({"input": [call(call_id=None)]}, "call_id is missing"),
        ({"input": []}, "no input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "'input_video'"),
        ({"temperature": "hot"}, "$.temperature"),
        ({"tools": [{"name": "f"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "custom", "name": "c", "format": {"type": "grammar"}}]}, "grammar"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}}, "none of the tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "text"}}, "structured_outputs": {"regex": "a"}}, "exclude"),
        ({"truncation": "middle"}, "truncation"),
    ],
)
def test_what_has_no_equal_is_not_translated(fields: Json, said: str) -> None:
    assert said in reason_for(**fields)


def test_half_of_a_surrogate_pair_is_read() -> None:
    made = responses_as_chat(rb'{"model": "m", "input": "\ud83d!"}').body
    assert msgspec.json.decode(made)["messages"] == [{"role": "user", "content": "\ufffd!"}]


NAMES = st.sampled_from(
    ["type", "role", "content", "text", "id", "name", "tools", "input", "call_id", "output", "x"]
) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
KINDS = st.sampled_from(["message", "reasoning", "function_call", "function_call_output", "custom"])
ITEMS = st.fixed_dictionaries(
    {"type": KINDS}, optional={"role": st.just("assistant"), "content": VALUES, "status": VALUES}
)
FIELDS = st.sampled_from([*SAME, "input", "tools", "tool_choice", "text", "reasoning", "include"])


@given(st.dictionaries(FIELDS, VALUES, max_size=5), st.lists(ITEMS, max_size=4) | VALUES)
def test_any_json_is_translated_or_not(fields: Json, given_input: Json) -> None:
    body = msgspec.json.encode({"model": "m", **fields, "input": given_input})
    with contextlib.suppress(Untranslatable):
        made = msgspec.json.decode(responses_as_chat(body).body)
        assert made["messages"]


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_translated_or_not(body: bytes) -> None:
    with contextlib.suppress(Untranslatable):
        responses_as_chat(body)
