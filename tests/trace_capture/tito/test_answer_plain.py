"""A plain chat response made of one of generate, and of what the engine's parser says of it."""

from typing import Any

import pytest
from gateway_plugins.trace_capture.tito.answer.plain import chat_answer, messages_of
from gateway_plugins.trace_capture.tito.answer.structs import Asked, Choice, Generated

CALLS = [
    {"type": "function", "id": f"{place:032x}", "function": {"name": "look", "arguments": "{}"}}
    for place in range(2)
]
NAMED = {"type": "function", "function": {"name": "look"}}


def answer(choice: Choice, message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the choice of the chat response, if the parser says `message`."""
    asked = Asked({"tools": [{}], **fields}, [1], True, False, False, False, None, False, "m")
    generated = Generated([choice], "generate-tokens-1")
    parsed = {"choices": [{"index": 0, "message": {"content": None, **message}}]}
    [made] = chat_answer(asked, generated, messages_of(asked, generated, parsed))["choices"]
    found: dict[str, Any] = made
    return found


@pytest.mark.parametrize(
    ("tool_choice", "told", "calls", "expected"),
    [
        (None, "stop", CALLS, "tool_calls"),
        ("auto", "stop", [], "stop"),
        ("auto", "length", CALLS, "tool_calls"),
        ("auto", "length", [], "length"),
        ("auto", "abort", CALLS, "abort"),
        ("required", "stop", [], "tool_calls"),
        ("required", "length", CALLS, "length"),
        (NAMED, "stop", CALLS, "stop"),
    ],
)
def test_the_finish_reason_is_that_of_a_plain_chat_of_vllm(
    tool_choice: object, told: str, calls: list[dict[str, Any]], expected: str
) -> None:
    choice = Choice(0, "x", [7, 8], None, told)
    made = answer(choice, {"tool_calls": calls}, tool_choice=tool_choice)
    assert made["finish_reason"] == expected


@pytest.mark.parametrize(("parallel", "count"), [(None, 2), (True, 2), (False, 1)])
def test_only_one_call_is_told_if_the_caller_takes_no_more(
    parallel: bool | None, count: int
) -> None:
    choice = Choice(0, "x", [7, 8], None, "stop")
    made = answer(choice, {"tool_calls": CALLS}, parallel_tool_calls=parallel)
    assert len(made["message"]["tool_calls"]) == count


def test_special_tokens_that_the_text_does_not_have_are_hidden() -> None:
    choice = Choice(0, "so be it <b>", [7, 8], None, "length")
    made = answer(choice, {"reasoning": "so <|x|>be", "content": "<|y|> it <b>"})
    assert made["message"]["reasoning"] == "so be"
    assert made["message"]["content"] == " it <b>"


def test_the_content_is_what_the_parser_says_also_without_reasoning() -> None:
    choice = Choice(0, "so </think>be", [7, 8], None, "length")
    assert answer(choice, {"content": "so be"})["message"]["content"] == "so be"


def test_a_text_ends_before_the_stop_string() -> None:
    choice = Choice(0, "so b", [7, 8], None, "stop", "e")
    assert answer(choice, {"content": "so be it"})["message"]["content"] == "so b"
