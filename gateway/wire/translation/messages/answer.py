"""A plain Messages response, made of chat's."""

import random
from collections.abc import Iterator

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire import surrogates
from gateway.wire.translation.chat import (
    ABSENT,
    ENDED_EARLY,
    GIVEN_UP,
    Answer,
    AnswerChoice,
    AnswerMessage,
    CallIds,
    encode,
    read_answer,
    read_usage,
)
from gateway.wire.translation.messages.stop import ENDS, stop_of
from gateway.wire.translation.messages.usage import usage_json
from gateway.wire.translation.translation import GivenUp, Unreadable

NOTHING = ("", "null")
"""Arguments of which the engine has sent nothing."""

INVALID = "INVALID_JSON"
"""Key of arguments that are no JSON object, as Anthropic's documentation has it."""


def answer(body: bytes) -> bytes:
    """Return the Messages response for a chat response.

    Raises Unreadable; its subclass GivenUp if the engine gave the response up: a message cannot
    say that.
    """
    try:
        found = read_answer(body)
    except NOT_JSON as error:
        raise Unreadable(f"the worker's response is no chat response: {error}") from None
    if not found.choices:
        raise Unreadable("the worker's response has no choice")
    if found.choices[0].finish_reason in (None, *GIVEN_UP):
        raise GivenUp(ENDED_EARLY)
    return _encoded(found)


def _encoded(found: Answer) -> bytes:
    choice = found.choices[0]
    calls = choice.message.tool_calls or ()
    used, cut = bool(calls), _is_cut(choice)
    whole = all(_object(call.function.arguments) is not None for call in calls)
    reason, sequence = stop_of(
        choice.finish_reason,
        choice.stop_reason,
        used_tool=used,
        whole_tool=used and whole,
        refused=bool(choice.message.refusal),
    )
    content = list(_content(choice.message, cut=cut)) or [{"type": "text", "text": ""}]
    made = {
        "id": found.id or "",
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": found.model or "",
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": msgspec.Raw(usage_json(read_usage(found.usage))),
        "kv_transfer_params": found.kv_transfer_params,
        "ec_transfer_params": found.ec_transfer_params,
    }
    left_out = [name for name, value in made.items() if value == ABSENT or value is None]
    for name in left_out:
        if name != "stop_reason":
            del made[name]
    return encode(made)


def _content(message: AnswerMessage, *, cut: bool) -> Iterator[dict[str, object]]:
    reasoning = message.reasoning or message.reasoning_content
    if reasoning:
        signature = f"{random.getrandbits(128):032x}"
        yield {"type": "thinking", "thinking": reasoning, "signature": signature}
    for text in filter(None, (message.content, message.refusal)):
        yield {"type": "text", "text": text}
    ids = CallIds()
    for number, call in enumerate(message.tool_calls or ()):
        arguments = call.function.arguments
        yield {
            "type": "tool_use",
            "id": ids.of(call.id, number),
            "name": call.function.name,
            "input": _input(arguments, cut=cut),
        }


def _input(arguments: str, *, cut: bool) -> msgspec.Raw:
    """Return the arguments of a call as an object; an empty one for those that were cut off.

    If the model itself has written no JSON object, the message is whole nonetheless: the agent is
    to tell the model so. An error would have it sampled anew.
    """
    found = _object(arguments)
    if found is None:
        found = b"{}" if cut else encode({INVALID: arguments})
    return msgspec.Raw(found)


def _is_cut(choice: AnswerChoice) -> bool:
    """Whether the engine did not stop by itself, so that a call may be a beginning."""
    return isinstance(choice.stop_reason, str) or choice.finish_reason not in ENDS


def _object(arguments: str) -> bytes | None:
    """Return the JSON object in arguments, an empty one if there are none; None if it is none."""
    if arguments in NOTHING:
        return b"{}"
    text = arguments.encode()
    if surrogates.may_have_half(text):
        text = surrogates.readable(text)
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except NOT_JSON:
        return None
    return text
