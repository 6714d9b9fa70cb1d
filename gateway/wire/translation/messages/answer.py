"""A plain Messages response, made of chat's."""

import random
from collections.abc import Iterator

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.translation.chat import (
    ABSENT,
    ENDED_EARLY,
    GIVEN_UP,
    Answer,
    AnswerChoice,
    AnswerMessage,
    decode_answer,
    encode,
    new_call_id,
)
from gateway.wire.translation.messages.stop import ENDS, stop_of
from gateway.wire.translation.messages.usage import usage_json
from gateway.wire.translation.translation import Unreadable

NOTHING = ("", "null")
"""Arguments of which the engine has sent nothing."""


def answer(body: bytes) -> bytes:
    """Return the Messages response for a chat response.

    Raises Unreadable, also if the engine gave the response up: a message cannot say that.
    """
    try:
        found = decode_answer(body)
    except NOT_JSON as error:
        raise Unreadable(f"the worker's response is no chat response: {error}") from None
    if not found.choices:
        raise Unreadable("the worker's response has no choice")
    if found.choices[0].finish_reason in (None, *GIVEN_UP):
        raise Unreadable(ENDED_EARLY)
    return _encoded(found)


def _encoded(found: Answer) -> bytes:
    choice = found.choices[0]
    calls = choice.message.tool_calls or ()
    whole = all(_is_object(call.function.arguments) for call in calls)
    if not whole and not _is_cut(choice):
        raise Unreadable("the arguments of a tool call are no JSON object")
    used = bool(calls)
    reason, sequence = stop_of(
        choice.finish_reason, choice.stop_reason, used_tool=used, whole_tool=used and whole
    )
    content = list(_content(choice.message)) or [{"type": "text", "text": ""}]
    made = {
        "id": found.id or "",
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": found.model or "",
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": msgspec.Raw(usage_json(found.usage)),
        "kv_transfer_params": found.kv_transfer_params,
        "ec_transfer_params": found.ec_transfer_params,
    }
    left_out = [name for name, value in made.items() if value == ABSENT or value is None]
    for name in left_out:
        if name != "stop_reason":
            del made[name]
    return encode(made)


def _content(message: AnswerMessage) -> Iterator[dict[str, object]]:
    reasoning = message.reasoning or message.reasoning_content
    if reasoning:
        signature = f"{random.getrandbits(128):032x}"
        yield {"type": "thinking", "thinking": reasoning, "signature": signature}
    if message.content:
        yield {"type": "text", "text": message.content}
    for call in message.tool_calls or ():
        arguments = call.function.arguments
        yield {
            "type": "tool_use",
            "id": call.id or new_call_id(),
            "name": call.function.name,
            "input": _input(arguments),
        }


def _input(arguments: str) -> msgspec.Raw:
    """Return the arguments of a call; an empty object for those that were cut off."""
    given = arguments not in NOTHING and _is_object(arguments)
    return msgspec.Raw(arguments.encode() if given else b"{}")


def _is_cut(choice: AnswerChoice) -> bool:
    """Whether the engine did not stop by itself, so that a call may be a beginning."""
    return isinstance(choice.stop_reason, str) or choice.finish_reason not in ENDS


def _is_object(arguments: str) -> bool:
    if arguments in NOTHING:
        return True
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except NOT_JSON:
        return False
    return True
