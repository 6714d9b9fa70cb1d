"""The messages of a call, as the conventions write them, after the hooks `redact_trace`.

A plugin that redacts traces redacts what leaves the gateway here by the same code: the messages go
to its hook as a Trace without tokens, and what it leaves is recorded. If a hook fails, nothing is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway import NOT_JSON, Delta, Trace, TraceChoice
from gateway_plugins.otel.record import FinishedCall
from gateway_plugins.otel.response import Watched

Redact = Callable[[Trace], Trace | None]
"""Runs the hooks; None: a hook failed, so that nothing may be recorded."""

MAX_KEPT = 1_000_000
"""Maximum characters of a response that are kept for a call."""


class Heard(Watched):
    """The observer of calls with content: keeps the text of each choice, too."""

    __slots__ = ("_room", "texts")

    def __init__(self, streams: bool) -> None:
        super().__init__(streams)
        self.texts: dict[int, list[str]] = {}
        self._room = MAX_KEPT

    def delta(self, delta: Delta) -> None:
        for choice in delta.choices:
            if choice.text and self._room > 0:
                self._room -= len(choice.text)
                self.texts.setdefault(choice.index, []).append(choice.text)


class Part(msgspec.Struct, tag_field="type", tag="text"):
    content: str


class Message(msgspec.Struct):
    role: str
    parts: list[Part]


class Spoken(msgspec.Struct):
    """The two attributes, as JSON; None if there is nothing to tell."""

    input: str | None = None
    output: str | None = None


def content_of(call: FinishedCall, redact: Redact, most: int) -> Spoken:
    """Return the redacted messages of a call, each attribute of at most `most` characters."""
    trace = redact(_trace_of(call))
    if trace is None:
        return Spoken()
    asked = [_message(one) for one in trace.messages]
    said = [_message(choice.message or {}) for choice in trace.choices]
    return Spoken(_written(asked, most), _written(said, most))


def _trace_of(call: FinishedCall) -> Trace:
    body = _body(call.content)
    texts = call.response.texts if isinstance(call.response, Heard) else {}
    answers = [
        TraceChoice(index=index, message={"role": "assistant", "content": "".join(parts)})
        for index, parts in sorted(texts.items())
    ]
    return Trace(
        trace_id=call.trace_id,
        session_id=call.session_id or "",
        model=call.model or "",
        messages=_messages(body),
        response_message=(answers[0].message or {}) if answers else {},
        raw_request=body,
        call_id=call.call_id,
        path=call.path,
        principal=call.principal,
        choices=answers,
    )


def _body(content: bytes | None) -> dict[str, Any]:
    try:
        read = msgspec.json.decode(content or b"{}")
    except NOT_JSON:
        return {}
    return read if isinstance(read, dict) else {}


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of chat, or the prompt of completions as one."""
    found = body.get("messages")
    if isinstance(found, list):
        return [one for one in found if isinstance(one, dict)]
    prompt = body.get("prompt")
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []


def _message(told: Mapping[str, Any]) -> Message:
    role, content = told.get("role"), told.get("content")
    parts = content if isinstance(content, list) else [content]
    return Message(str(role or "assistant"), [Part(text) for text in _texts(parts)])


def _texts(parts: Sequence[object]) -> list[str]:
    """Texts of a message's parts; of another part, its type alone."""
    found = []
    for part in parts:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict):
            text = part.get("text")
            found.append(text if isinstance(text, str) else f"[{part.get('type', 'part')}]")
    return found


def _written(messages: list[Message], most: int) -> str | None:
    """Write messages as JSON; of those that are too long, each text is cut, so that JSON stays."""
    if not messages:
        return None
    written = msgspec.json.encode(messages).decode(errors="replace")
    if len(written) <= most:
        return written
    share = max(0, most // sum(len(one.parts) + 1 for one in messages) - 60)
    for message in messages:
        for part in message.parts:
            part.content = part.content[:share]
    written = msgspec.json.encode(messages).decode(errors="replace")
    return written if len(written) <= most else None
