"""Plain responses with a tool call that was cut off."""

import json
from typing import Any

import pytest

from gateway.wire.translation.messages.answer import answer
from gateway.wire.translation.translation import Unreadable

CUT = '{"command": "rm -r /tmp'


def chat(arguments: str, finish: str | None, stop: object = None) -> bytes:
    call = {"id": "c", "type": "function", "function": {"name": "Bash", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": finish, "stop_reason": stop}
    return json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode()


def told(body: bytes) -> tuple[Any, Any, Any]:
    made = json.loads(answer(body))
    [block] = made["content"]
    assert (block["type"], block["name"]) == ("tool_use", "Bash")
    return block["input"], made["stop_reason"], made.get("stop_sequence")


@pytest.mark.parametrize("arguments", [CUT, "", "null", "7", "[1"])
def test_a_call_that_the_limit_cuts_off_is_no_failure_of_the_engine(arguments: str) -> None:
    assert told(chat(arguments, "length")) == ({}, "max_tokens", None)


def test_a_call_that_a_stop_string_cuts_off_is_not_to_be_run() -> None:
    assert told(chat(CUT, "stop", " /")) == ({}, "stop_sequence", " /")


@pytest.mark.parametrize("arguments", [CUT, '{"command": "ls"}'])
@pytest.mark.parametrize("finish", ["abort", "error", None])
def test_a_call_that_the_engine_gave_up_is_no_message(arguments: str, finish: str | None) -> None:
    with pytest.raises(Unreadable, match="ended the response early"):
        answer(chat(arguments, finish))


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_a_whole_call_that_a_stop_string_ends_is_run(finish: str) -> None:
    assert told(chat('{"command": "ls"}', finish, "}")) == ({"command": "ls"}, "tool_use", None)


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_a_broken_call_that_was_not_cut_off_is_told_as_the_model_wrote_it(finish: str) -> None:
    assert told(chat(CUT, finish)) == ({"INVALID_JSON": CUT}, "tool_use", None)


def test_half_a_surrogate_pair_in_a_call_is_told_as_other_text() -> None:
    """Escaped once more in the arguments, and bare in a text, of which engines send either."""
    body = chat('{"a": "\\ud83d \\\\ud83d"}', "tool_calls")
    assert told(body)[0] == {"a": "\ufffd \\ud83d"}
    body = body.replace(b'"content": null', b'"content": "\\ud83d"')
    assert json.loads(answer(body))["content"][0]["text"] == "\ufffd"
