"""Contents of Messages as chat messages, in vLLM's way: its prompts have to be the same."""

import time
from collections.abc import Iterator
from typing import Any

from msgspec import UNSET

from gateway.wire.translation import chat
from gateway.wire.translation.messages.structs import Block, Message
from gateway.wire.translation.messages.tools import CHANGES
from gateway.wire.translation.translation import Untranslatable

BILLING = "x-anthropic-billing-header"
"""How a block of Claude Code begins that differs with each request; models are not shown it."""


class Parts:
    """What the blocks of one message have become so far."""

    def __init__(self) -> None:
        self.content: list[dict[str, object]] = []
        self.calls: list[chat.ToolCall] = []
        self.reasoning: list[str] = []
        self.before: list[chat.Message] = []


def messages_of(messages: list[Message], *, merged: bool) -> Iterator[chat.Message]:
    """Yield the chat messages; those of the system are left out if they are `merged`.

    Raises Untranslatable.
    """
    for message in messages:
        if message.role == "system":
            text = None if merged else system_text(message.content)
            if text:
                yield chat.Message(role="system", content=text)
        elif isinstance(message.content, str):
            yield chat.Message(role=message.role, content=message.content)
        else:
            yield from _of_blocks(message.role, message.content)


def system_text(content: str | list[Block]) -> str | None:
    """Return the text that a model is shown of a system message; None: nothing."""
    if isinstance(content, str):
        return None if content.startswith(BILLING) else content
    return "".join(_texts(content)) or None


def _texts(blocks: list[Block]) -> Iterator[str]:
    for block in blocks:
        if block.type == "text" and block.text and not block.text.startswith(BILLING):
            yield block.text


def _of_blocks(role: str, blocks: list[Block]) -> Iterator[chat.Message]:
    parts = Parts()
    for block in blocks:
        _add(block, role, parts)
    yield from parts.before
    made = chat.Message(role=role)
    if parts.reasoning:
        made.reasoning = "".join(parts.reasoning)
    if parts.calls:
        made.tool_calls = parts.calls
    if len(parts.content) == 1 and parts.content[0]["type"] == "text":
        made.content = parts.content[0]["text"]
    elif parts.content:
        made.content = parts.content
    if role != "user" or made.content is not UNSET:
        yield made


def _add(block: Block, role: str, parts: Parts) -> None:
    match block.type:
        case "text" if block.text:
            parts.content.append({"type": "text", "text": block.text})
        case "image" if block.source:
            parts.content.append(_image(_url(block.source)))
        case "thinking" if block.thinking is not None:
            parts.reasoning.append(block.thinking)
        case "tool_use":
            parts.calls.append(_call(block))
        case "tool_result" if role == "user":
            parts.before.extend(_result(block))
        case "tool_result":
            said = str(block.content) if block.content else ""
            parts.content.append({"type": "text", "text": f"Tool result: {said}"})
        case kind if kind in CHANGES:
            words = f'{kind} blocks are only allowed in messages with role "system"'
            raise Untranslatable(words, invalid=True)


def _call(block: Block) -> chat.ToolCall:
    try:
        arguments = chat.encode(block.input or {}).decode()
    except UnicodeDecodeError:  # what was not decoded was not checked
        raise Untranslatable("input of a tool_use block is not UTF-8", invalid=True) from None
    function = chat.CalledFunction(name=block.name or "", arguments=arguments)
    return chat.ToolCall(id=block.id or f"call_{int(time.time())}", function=function)


def _image(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def _url(source: dict[str, Any]) -> str:
    """Return the URL of an image, or one with its bytes in it. Raises Untranslatable."""
    if source.get("type") == "url":
        return _text(source, "url", "")
    kind, data = _text(source, "media_type", "image/jpeg"), _text(source, "data", "")
    return f"data:{kind};base64,{data}"


def _text(values: dict[str, Any], name: str, default: str) -> str:
    value = values.get(name, default)
    if not isinstance(value, str):
        raise Untranslatable(f"{name} of a content block is no string", invalid=True)
    return value


def _result(block: Block) -> Iterator[chat.Message]:
    """Yield the messages of a tool's result: its text, its images, the tools that it names."""
    name = block.tool_use_id or ""
    items = block.content if isinstance(block.content, list) else []
    text = block.content if isinstance(block.content, str) else ""
    if items:
        text = "\n".join([_text(item, "text", "") for item in items if _is(item, "text")])
    yield chat.Message(role="tool", tool_call_id=name, content=text or "")
    urls = [_url(_source(item)) for item in items if _is(item, "image")]
    if images := [_image(url) for url in urls if url]:
        yield chat.Message(role="user", content=images)
    named = [item.get("tool_name") or item.get("name") for item in items if _is_reference(item)]
    references = [{"type": "tool_reference", "name": one} for one in named if one]
    if references:
        yield chat.Message(role="tool", tool_call_id=name, content=references)


def _is(item: dict[str, Any], kind: str) -> bool:
    return item.get("type") == kind


def _is_reference(item: dict[str, Any]) -> bool:
    return item.get("type") == "tool_reference"


def _source(item: dict[str, Any]) -> dict[str, Any]:
    source = item.get("source", {})
    if not isinstance(source, dict):
        raise Untranslatable("source of an image is no object", invalid=True)
    return source
