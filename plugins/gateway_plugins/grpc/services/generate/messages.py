"""The messages of a chat. What is wrong with one is a BadRequest that names its field."""

from typing import Any

from gateway import BadRequest
from gateway_plugins.grpc.services.generate.values import given, json_object


def chat_messages(messages: Any) -> list[dict[str, object]]:
    """Return the `messages` of a chat, from a Messages."""
    if not messages.messages:
        raise BadRequest("messages has none", param="messages")
    return [
        _message(one, f"messages.messages[{place}]") for place, one in enumerate(messages.messages)
    ]


def _message(message: Any, field: str) -> dict[str, object]:
    made: dict[str, object] = {
        "role": given(message.role, f"{field}.role"),
        "content": _content(message, field),
    }
    if message.tool_calls:
        made["tool_calls"] = [
            _tool_call(call, f"{field}.tool_calls[{place}]")
            for place, call in enumerate(message.tool_calls)
        ]
    for name in ("tool_call_id", "name", "reasoning"):
        if value := getattr(message, name):
            made[name] = value
    return made


def _content(message: Any, field: str) -> object:
    """Return a lone text as a string, several parts as a list; null beside nothing but tools."""
    parts = message.parts
    if not parts:
        return None if message.tool_calls else ""
    if len(parts) == 1 and parts[0].WhichOneof("part") == "text":
        return parts[0].text
    return [_part(part, f"{field}.parts[{place}]") for place, part in enumerate(parts)]


def _part(part: Any, field: str) -> object:
    match part.WhichOneof("part"):
        case "text":
            return {"type": "text", "text": part.text}
        case "image_url":
            return {"type": "image_url", "image_url": {"url": part.image_url}}
        case "json":
            return json_object(part.json, f"{field}.json")
    raise BadRequest(f"{field} has no content", param=field)


def _tool_call(call: Any, field: str) -> dict[str, object]:
    function = {"name": given(call.name, f"{field}.name"), "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
