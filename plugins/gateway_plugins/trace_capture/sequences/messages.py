"""Normalises chat messages, to compare a response with the copy in a later request."""

import contextlib
from typing import Any

import msgspec

_REASONING = ("reasoning", "reasoning_content", "thinking")


class Message(msgspec.Struct, frozen=True):
    """The content of a message. `text` has no reasoning, and no white space at its ends.

    `parts` are the content parts other than text, `calls` the tool calls as (name, arguments).
    """

    role: object
    text: str
    reasoning: str
    parts: list[Any]
    calls: list[Any]
    call_id: object

    def visible(self) -> tuple[object, ...]:
        """Return all fields except the reasoning."""
        return self.role, self.text, self.parts, self.calls, self.call_id


def read_message(message: object) -> Message:
    """Normalise a message. Never raises; anything but a JSON object gets no role."""
    if not isinstance(message, dict):
        return Message(None, "", "", [message], [], None)
    text, thoughts, parts = _content(message.get("content"))
    text, inside = _without_thinking(text)
    return Message(
        role=message.get("role"),
        text=text.strip(),
        reasoning="".join([*_thoughts(message), *thoughts, *inside]).strip(),
        parts=parts,
        calls=_calls(message),
        call_id=message.get("tool_call_id"),
    )


def _content(content: object) -> tuple[str, list[str], list[Any]]:
    """Return text, reasoning and other parts of a content (a text or a list of parts)."""
    texts: list[str] = []
    thoughts: list[str] = []
    others: list[Any] = []
    for part in content if isinstance(content, list) else [content]:
        fields = part if isinstance(part, dict) else {"text": part}
        if isinstance(text := fields.get("text"), str):
            texts.append(text)
        elif found := _thoughts(fields):
            thoughts.extend(found)
        elif part is not None:
            others.append(part)
    return "".join(texts), thoughts, others


def _thoughts(fields: dict[Any, Any]) -> list[str]:
    """Return the reasoning texts; the same text under two names counts once."""
    found = (fields.get(name) for name in _REASONING)
    return list(dict.fromkeys(thought for thought in found if isinstance(thought, str)))


def _without_thinking(text: str) -> tuple[str, list[str]]:
    """Split off <think> texts; the opening tag may be missing if the template had opened it."""
    *closed, rest = text.split("</think>")
    outside: list[str] = []
    inside: list[str] = []
    for piece in closed:
        before, opened, thought = piece.partition("<think>")
        outside.append(before if opened else "")
        inside.append(thought if opened else piece)
    return "".join([*outside, rest]), inside


def _calls(message: dict[Any, Any]) -> list[Any]:
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else []
    found = [_call(call.get("function")) for call in calls if isinstance(call, dict)]
    legacy = message.get("function_call")
    return [*found, _call(legacy)] if legacy else found


def _call(function: object) -> tuple[object, object]:
    if not isinstance(function, dict):
        return None, function
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(msgspec.DecodeError, RecursionError, ValueError):
            arguments = msgspec.json.decode(arguments)
    return function.get("name"), arguments
