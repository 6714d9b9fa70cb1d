"""What a caller was told: the text of an answer, and whether it came to its end."""

import json
from collections.abc import Iterator
from typing import Any

from accounting.tap import Said

Fields = dict[str, Any]


def is_stream(said: Said) -> bool:
    return said.headers.get(b"content-type", b"").startswith(b"text/event-stream")


def data_of(said: Said) -> list[str]:
    """The data of the events that came whole."""
    events = bytes(said.body).decode(errors="replace").split("\n\n")[:-1]
    lines = [line for event in events for line in event.split("\n")]
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def events_of(said: Said) -> list[Fields]:
    return [json.loads(data) for data in data_of(said) if data.startswith("{")]


def is_ended(api: str, said: Said) -> bool:
    """Whether the caller takes the answer for whole, and for no failure."""
    if said.status != 200:
        return False
    if not is_stream(said):
        return said.whole
    data = data_of(said)
    if api == "messages":
        return '"message_stop"' in (data[-1] if data else "")
    if api == "responses":
        return bool(data) and json.loads(data[-1]).get("type") == "response.completed"
    return data[-1:] == ["[DONE]"]


def text_of(api: str, said: Said) -> str:
    """The text of the first choice, as far as it came; "" for an error."""
    if said.status != 200 or not (is_stream(said) or said.whole):
        return ""
    found = events_of(said) if is_stream(said) else [json.loads(said.body)]
    return "".join(text for event in found for text in _TEXTS.get(api, _of_nothing)(event))


def _of_nothing(event: Fields) -> Iterator[str]:
    yield from ()


def _of_chat(event: Fields) -> Iterator[str]:
    for choice in event.get("choices", ()):
        if choice["index"] == 0:
            told = choice.get("delta") or choice.get("message") or {}
            yield told.get("content") or ""


def _of_completion(event: Fields) -> Iterator[str]:
    for choice in event.get("choices", ()):
        if choice["index"] == 0:
            yield choice.get("text") or ""


def _of_message(event: Fields) -> Iterator[str]:
    for block in event.get("content", ()):
        yield block.get("text", "")
    if event.get("type") == "content_block_delta":
        yield event["delta"].get("text", "")


def _of_response(event: Fields) -> Iterator[str]:
    if event.get("type") == "response.output_text.delta":
        yield event["delta"]
    for item in event.get("output", ()):
        if item["type"] == "message":
            yield from (part.get("text", "") for part in item["content"])


_TEXTS = {
    "chat": _of_chat,
    "completions": _of_completion,
    "messages": _of_message,
    "responses": _of_response,
}
