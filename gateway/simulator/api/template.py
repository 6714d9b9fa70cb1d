"""Converts messages to the ids of a prompt: ChatML, with tools in Qwen's format."""

from collections.abc import Sequence

import msgspec

from gateway.simulator.api.toolcalls import written
from gateway.simulator.engine.tokens import EOS, IM_START, decode, encode
from gateway.simulator.input.requests import Message, Tool

TOOLS_OPEN = (
    "# Tools\n\nYou may call one or more functions. Answer with a JSON object of name and "
    "arguments within <tool_call></tool_call> tags.\n<tools>\n"
)
TOOLS_CLOSE = "\n</tools>"


def chat_ids(
    messages: Sequence[Message], tools: Sequence[Tool] = (), *, open_answer: bool = True
) -> list[int]:
    """Return the prompt's ids; with `open_answer` the assistant's turn is opened at the end."""
    ids: list[int] = []
    if tools:
        described = "\n".join(msgspec.json.encode(tool).decode() for tool in tools)
        ids += _turn("system", f"{TOOLS_OPEN}{described}{TOOLS_CLOSE}")
    for message in messages:
        ids += _turn(message.role or "", _said(message))
    return [*ids, IM_START, *encode("assistant\n")] if open_answer else ids


def unclosed(ids: list[int]) -> list[int]:
    """Return a prompt whose last turn the model goes on with."""
    return ids[: len(ids) - 1 - ids[::-1].index(EOS)] if EOS in ids else ids


def turns(ids: Sequence[int]) -> list[tuple[str, str]]:
    """Return role and text of each turn in a prompt's ids; the last may be one that is open."""
    parts: list[list[int]] = []
    for number in ids:
        if number == IM_START:
            parts.append([])
        elif parts and number != EOS:
            parts[-1].append(number)
    said = (decode(part).partition("\n") for part in parts)
    return [(role, text.removesuffix("\n")) for role, _, text in said]


def _turn(role: str, text: str) -> list[int]:
    return [IM_START, *encode(f"{role}\n{text}"), EOS, *encode("\n")]


def _said(message: Message) -> str:
    content = message.content
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else part.text or "" for part in content)
    calls = [
        written(call.function.name, call.function.arguments) for call in message.tool_calls or ()
    ]
    return "\n".join([*([content] if content else []), *calls])
