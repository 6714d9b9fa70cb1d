"""`Generate`: what a request becomes for the worker, and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from gateway_plugins.grpc.services.generate.method import Generate
from gateway_plugins.grpc.services.generate.request import Generation, Wanted
from support.grpc.in_process import MESSAGES, message

from gateway import BadRequest

NAN = float("nan")


def asked_by(request: Any, default_model: str | None = None) -> Generation:
    found = Generate(MESSAGES, default_model).read(request.SerializeToString())
    assert isinstance(found, Generation)
    return found


def body_of(request: Any, default_model: str | None = None) -> dict[str, Any]:
    body = msgspec.json.decode(asked_by(request, default_model).body())
    assert isinstance(body, dict)
    return body


def chat(**fields: Any) -> Any:
    request = message("GenerateRequest", model="m", **fields)
    request.messages.messages.add(role="user").parts.add(text="Hello")
    return request


STREAMS = {"stream": True, "stream_options": {"include_usage": True}}


def test_a_request_says_no_more_than_it_has_to() -> None:
    found = asked_by(chat())
    hello = {"role": "user", "content": "Hello"}
    assert (found.path, found.method) == ("/v1/chat/completions", "POST")
    assert msgspec.json.decode(found.body()) == {"model": "m", "messages": [hello], **STREAMS}
    assert found.wanted == Wanted()


def test_prompts_are_completions() -> None:
    text = asked_by(message("GenerateRequest", model="m", prompt="Once"))
    ids = message("GenerateRequest", model="m", prompt_token_ids={"ids": [1, 2**32 - 1]})
    assert text.path == asked_by(ids).path == "/v1/completions"
    assert msgspec.json.decode(text.body()) == {"model": "m", "prompt": "Once", **STREAMS}
    assert body_of(ids) == {"model": "m", "prompt": [1, 2**32 - 1], **STREAMS}
    empty = body_of(message("GenerateRequest", model="m", prompt=""))
    assert empty["prompt"] == ""


def test_messages_have_all_that_a_chat_has() -> None:
    image, audio = "data:image/png;base64,AA==", b'{"type":"input_audio","input_audio":{}}'
    call = {"id": "c1", "name": "now", "arguments": '{"a": 1}'}
    turns = [
        {"role": "system", "parts": [{"text": "Be short."}], "name": "boss"},
        {"role": "user", "parts": [{"text": "What?"}, {"image_url": image}, {"json": audio}]},
        {"role": "assistant", "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "tool_call_id": "c1", "parts": [{"text": "noon"}]},
        {"role": "assistant"},
    ]
    request = message("GenerateRequest", model="m", messages={"messages": turns})
    function = {"name": "now", "arguments": '{"a": 1}'}
    assert body_of(request)["messages"] == [
        {"role": "system", "content": "Be short.", "name": "boss"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": image}},
                json.loads(audio),
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            "reasoning": "hm",
        },
        {"role": "tool", "content": "noon", "tool_call_id": "c1"},
        {"role": "assistant", "content": ""},
    ]


def test_sampling_is_sent_as_it_is_set_zeros_included() -> None:
    zeros = {"temperature": 0, "top_p": 0, "top_k": 0, "min_p": 0, "frequency_penalty": 0}
    zeros |= {"presence_penalty": 0, "repetition_penalty": 0, "max_tokens": 0, "min_tokens": 0}
    zeros |= {"seed": 0, "ignore_eos": False}
    lists = {"stop": ["a", ""], "stop_token_ids": [0, 7], "logit_bias": {5: -1.5}}
    sampling = {**zeros, **lists, "n": 2}
    found = body_of(chat(sampling=sampling))
    expected = {**sampling, "logit_bias": {"5": -1.5}}
    assert {name: found[name] for name in expected} == expected
    assert body_of(chat(sampling={"seed": -(2**63), "top_k": -1}))["seed"] == -(2**63)
    assert asked_by(chat(sampling=sampling)).wanted.choices == 2


def test_tools_keep_their_json_byte_for_byte() -> None:
    schema = b'{"z": 1, "a" :1.0, "n": 12345678901234567890}'
    tools = [
        {"name": "now", "description": "The time", "parameters": schema, "strict": False},
        {"name": "bare"},
    ]
    request = chat(tools=tools, tool_choice="now", parallel_tool_calls=False)
    body = asked_by(request).body()
    assert schema in body
    found = msgspec.json.decode(body)
    assert found["tools"][1] == {"type": "function", "function": {"name": "bare"}}
    assert found["tools"][0]["function"]["strict"] is False
    assert found["tool_choice"] == {"type": "function", "function": {"name": "now"}}
    assert found["parallel_tool_calls"] is False
    for choice in ("auto", "none", "required"):
        assert body_of(chat(tools=tools, tool_choice=choice))["tool_choice"] == choice


TAG = {"type": "structural_tag", "format": {"type": "any_text"}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"json_schema": b'{"type": "object"}'},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "schema", "schema": {"type": "object"}},
                }
            },
        ),
        ({"json_object": True}, {"response_format": {"type": "json_object"}}),
        ({"json_object": False}, {}),
        ({"structural_tag": json.dumps(TAG).encode()}, {"response_format": TAG}),
        ({"regex": "[ab]+"}, {"structured_outputs": {"regex": "[ab]+"}}),
        ({"grammar": "root ::= x"}, {"structured_outputs": {"grammar": "root ::= x"}}),
        ({"choices": {"choices": ["a", "b"]}}, {"structured_outputs": {"choice": ["a", "b"]}}),
    ],
)
def test_structure_is_asked_for_as_openai_or_vllm_read_it(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert body_of(chat(**fields)) == body_of(chat()) | expected


def test_numbers_are_asked_for_by_the_names_of_each_api() -> None:
    asked = {"logprobs": {"sampled": True, "top": 3}, "returned": {"token_ids": True}}
    plain = {name: body_of(chat(**asked))[name] for name in ("logprobs", "top_logprobs")}
    assert plain == {"logprobs": True, "top_logprobs": 3}
    assert body_of(chat(returned={"prompt_token_ids": True}))["return_token_ids"] is True
    prompt = message("GenerateRequest", model="m", prompt="Once", **asked)
    assert body_of(prompt) == {
        "model": "m",
        "prompt": "Once",
        "logprobs": 3,
        "return_token_ids": True,
        **STREAMS,
    }
    sampled = message("GenerateRequest", model="m", prompt="Once", logprobs={"sampled": True})
    assert body_of(sampled)["logprobs"] == 0
    wanted = asked_by(prompt).wanted
    assert (wanted.logprobs, wanted.top, wanted.token_ids) == (True, 3, True)


def test_logprobs_of_a_prompt_do_not_come_in_streams() -> None:
    found = body_of(chat(logprobs={"prompt": 0}))
    assert found["prompt_logprobs"] == 0
    assert "stream" not in found
    assert "logprobs" not in found


def test_a_lora_takes_the_place_of_the_model_and_extra_comes_last() -> None:
    request = chat(lora="mine", priority=-3, extra=b'{"priority": 1.0,"top_k":7, "new": {"a":1}}')
    body = asked_by(request).body()
    assert body.endswith(b'"priority":1.0,"stream":true,"stream_options":{"include_usage":true}'
                         b',"top_k":7,"new":{"a":1}}')  # fmt: skip
    assert body_of(request)["model"] == "mine"
    nameless = message("GenerateRequest", prompt="Once")
    assert body_of(nameless, "usual")["model"] == "usual"


WRONG: dict[str, tuple[Callable[[Any], object], str]] = {
    "nothing": (lambda r: r.ClearField("messages"), "input"),
    "no model": (lambda r: r.ClearField("model"), "model"),
    "no messages": (lambda r: r.messages.ClearField("messages"), "messages"),
    "no ids": (lambda r: r.prompt_token_ids.SetInParent(), "prompt_token_ids"),
    "no role": (lambda r: r.messages.messages.add(), "messages.messages[1].role"),
    "empty part": (
        lambda r: r.messages.messages[0].parts.add(),
        "messages.messages[0].parts[1]",
    ),
    "part no object": (
        lambda r: r.messages.messages[0].parts.add(json=b"[]"),
        "messages.messages[0].parts[1].json",
    ),
    "call without name": (
        lambda r: r.messages.messages[0].tool_calls.add(id="c"),
        "messages.messages[0].tool_calls[0].name",
    ),
    "temperature": (lambda r: setattr(r.sampling, "temperature", NAN), "sampling.temperature"),
    "top_p": (lambda r: setattr(r.sampling, "top_p", float("inf")), "sampling.top_p"),
    "bias": (lambda r: r.sampling.logit_bias.update({1: NAN}), "sampling.logit_bias"),
    "n": (lambda r: setattr(r.sampling, "n", 0), "sampling.n"),
    "tool without name": (lambda r: r.tools.add(), "tools[0].name"),
    "parameters": (lambda r: r.tools.add(name="a", parameters=b"{"), "tools[0].parameters"),
    "not UTF-8": (
        lambda r: r.tools.add(name="a", parameters=b'{"a":"\xff"}'),
        "tools[0].parameters",
    ),
    "schema": (lambda r: setattr(r, "json_schema", b"no"), "json_schema"),
    "tag": (lambda r: setattr(r, "structural_tag", b'{"type":"a"}'), "structural_tag"),
    "regex": (lambda r: setattr(r, "regex", ""), "regex"),
    "choices": (lambda r: r.choices.SetInParent(), "choices"),
    "extra": (lambda r: setattr(r, "extra", b'{"a":'), "extra"),
    "extra no object": (lambda r: setattr(r, "extra", b"[1]"), "extra"),
    "deep extra": (lambda r: setattr(r, "extra", b'{"a":' + b"[" * 100_000), "extra"),
    "tools of a prompt": (
        lambda r: r.MergeFrom(message("GenerateRequest", prompt="x", tools=[{"name": "a"}])),
        "tools",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_has_no_sense_is_refused_by_its_name(name: str) -> None:
    change, field = WRONG[name]
    request = chat()
    change(request)
    with pytest.raises(BadRequest) as caught:
        asked_by(request)
    assert caught.value.param == field


@pytest.mark.parametrize("data", [b"\xff", b"\x0a", b"\x12\x05abc", b"\x12\x02\xff\xff"])
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        Generate(MESSAGES).read(data)
