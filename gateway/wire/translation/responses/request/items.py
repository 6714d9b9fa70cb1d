"""Items of an input as chat messages, as vLLM joins them: several items can be one message.

A reasoning item, a text and tool calls that follow each other become one assistant's message. Two
things differ from vLLM, which takes only the first part of an assistant's message, and refuses
encrypted reasoning of another server: here all parts are taken, and that reasoning is left out.
"""

from collections.abc import Iterable

import msgspec

from gateway.wire.translation.chat import ABSENT, CalledFunction, Message, ToolCall
from gateway.wire.translation.responses.custom_tools import as_arguments
from gateway.wire.translation.responses.request.tools import flat_name
from gateway.wire.translation.responses.sealed_reasoning import unseal
from gateway.wire.translation.responses.structs import Item, Part
from gateway.wire.translation.translation import Untranslatable

_ROLES = frozenset(("user", "system", "developer"))
_UNFINISHED = frozenset(("in_progress", "incomplete"))
_OUTPUTS = frozenset(("function_call_output", "custom_tool_call_output"))


def messages_of(items: Iterable[Item]) -> list[Message]:
    """Return the messages for `items`. Raises Untranslatable."""
    messages: list[Message] = []
    for number, item in enumerate(items):
        try:
            _add(item, messages)
        except Untranslatable as error:
            raise Untranslatable(f"input[{number}]: {error.reason}") from None
    return messages


def continues(items: list[Item]) -> bool:
    """Whether the last item is the assistant's own, and not finished."""
    last = items[-1] if items else None
    if last is None or last.status not in _UNFINISHED:
        return False
    return (last.type or "message") in ("message", "reasoning")


def _add(item: Item, messages: list[Message]) -> None:
    kind = item.type or "message"
    if kind == "message":
        _add_message(item, messages)
    elif kind == "reasoning":
        _add_reasoning(item, messages)
    elif kind == "function_call":
        name = _text(item.name, "name")
        if item.namespace:
            name = flat_name(item.namespace, name)
        _add_tool_call(item, name, _text(item.arguments, "arguments"), messages)
    elif kind == "custom_tool_call":
        arguments = as_arguments(item.input or "")
        _add_tool_call(item, _text(item.name, "name"), arguments, messages)
    elif kind in _OUTPUTS:
        content = _content(item.output)
        call_id = _text(item.call_id, "call_id")
        messages.append(Message(role="tool", content=content, tool_call_id=call_id))
    else:
        raise Untranslatable(f"chat has nothing like an item of type {kind!r}")


def _text(value: str | None, name: str) -> str:
    if value is None:
        raise Untranslatable(f"{name} is missing", invalid=True)
    return value


def _assistant(messages: list[Message]) -> Message | None:
    """The message that the next item may belong to."""
    return messages[-1] if messages and messages[-1].role == "assistant" else None


def _add_message(item: Item, messages: list[Message]) -> None:
    if item.role in _ROLES:
        messages.append(Message(role=item.role, content=_content(item.content)))
    elif item.role == "assistant":
        _add_text(item, messages)
    else:
        raise Untranslatable(f"a message has no role {item.role!r}", invalid=True)


def _add_text(item: Item, messages: list[Message]) -> None:
    content = item.content
    if isinstance(content, list):
        content = "".join(part.text or part.refusal or "" for part in content)
    text = content or ""
    before = _assistant(messages)
    if before is not None and before.content is msgspec.UNSET:
        before.content = text
    else:
        messages.append(Message(role="assistant", content=text))


def _add_reasoning(item: Item, messages: list[Message]) -> None:
    text = _reasoning(item)
    if text is None:
        return
    before = _assistant(messages)
    if before is not None and before.reasoning is msgspec.UNSET:
        before.reasoning = text
    else:
        messages.append(Message(role="assistant", reasoning=text))


def _reasoning(item: Item) -> str | None:
    sealed = unseal(item.encrypted_content) if item.encrypted_content else None
    if sealed is not None:
        return sealed
    if isinstance(item.content, str):
        return item.content
    for parts in (item.content, item.summary):
        if parts:
            return parts[0].text or ""
    return None if item.encrypted_content else ""


def _add_tool_call(item: Item, name: str, arguments: str, messages: list[Message]) -> None:
    function = CalledFunction(name=name, arguments=arguments)
    call = ToolCall(id=_text(item.call_id, "call_id"), function=function)
    before = _assistant(messages)
    if before is None:
        messages.append(Message(role="assistant", tool_calls=[call]))
    elif isinstance(before.tool_calls, list):
        before.tool_calls.append(call)
    else:
        before.tool_calls = [call]


class _Image(msgspec.Struct, omit_defaults=True):
    url: str
    detail: str | None = None


class _File(msgspec.Struct, omit_defaults=True):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class _ChatPart(msgspec.Struct, omit_defaults=True, kw_only=True):
    type: str
    text: str | None = None
    image_url: _Image | None = None
    file: _File | None = None
    input_audio: msgspec.Raw | None = None


def _content(content: str | list[Part] | None) -> str | list[_ChatPart]:
    if content is None:
        raise Untranslatable("its content is missing", invalid=True)
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: Part) -> _ChatPart:
    if part.type in ("input_text", "output_text", "text"):
        return _ChatPart(type="text", text=_text(part.text, "text"))
    if part.type == "input_image" and part.image_url is not None:
        image = _Image(part.image_url, part.detail)
        return _ChatPart(type="image_url", image_url=image)
    if part.type == "input_file" and part.file_url is None:
        return _ChatPart(type="file", file=_File(part.file_id, part.file_data, part.filename))
    if part.type == "input_audio" and bytes(part.input_audio) != bytes(ABSENT):
        return _ChatPart(type="input_audio", input_audio=part.input_audio)
    raise Untranslatable(f"chat has nothing like this content of type {part.type!r}")
