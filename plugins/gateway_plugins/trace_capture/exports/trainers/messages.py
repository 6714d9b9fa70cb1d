"""Messages of chats as columns, and facts of a rollout that each trainer may want."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway_plugins.trace_capture.exports.rollout import Rollout


class Function(msgspec.Struct):
    """A called function; `arguments` are JSON."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    """A call that an answer asks for."""

    id: str | None
    type: str
    function: Function


class Message(msgspec.Struct):
    """A message of a chat. Parts of `content` that are not text are JSON in it."""

    role: str
    content: str
    reasoning_content: str | None
    name: str | None
    tool_call_id: str | None
    tool_calls: list[ToolCall] | None


class Facts(msgspec.Struct):
    """Where a row comes from, and how sure it is."""

    session_id: str
    trajectory: int
    trace_ids: list[str]
    verdict: str
    reasons: list[str]
    branched_from: int | None
    shared: int
    fork_kind: str | None
    model: str
    session_metadata: dict[str, Any]


def facts_of(rollout: Rollout) -> Facts:
    one = rollout.trajectory
    return Facts(
        session_id=rollout.session.session_id,
        trajectory=one.index,
        trace_ids=one.trace_ids,
        verdict=one.verdict,
        reasons=list(one.reasons),
        branched_from=one.branched_from,
        shared=one.shared,
        fork_kind=one.fork_kind,
        model=rollout.last.model,
        session_metadata=rollout.session.metadata,
    )


def messages_of(told: Iterable[dict[str, Any]]) -> list[Message]:
    """Return messages as columns can hold them."""
    return [
        Message(
            role=string(one.get("role")) or "user",
            content=text_of(one.get("content")),
            reasoning_content=reasoning_of(one),
            name=string(one.get("name")),
            tool_call_id=string(one.get("tool_call_id")),
            tool_calls=calls_of(one) or None,
        )
        for one in told
    ]


def text_of(content: object) -> str:
    """Return the text of a message's content; parts that are not text are JSON."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    parts = content if isinstance(content, list) else [content]
    return "".join(map(_text_of_part, parts))


def _text_of_part(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else json.dumps(part, ensure_ascii=False)


def reasoning_of(message: dict[str, Any]) -> str | None:
    """Return the reasoning of an answer, under either of its names."""
    return string(message.get("reasoning_content")) or string(message.get("reasoning"))


def calls_of(message: dict[str, Any]) -> list[ToolCall]:
    """Return the calls that an answer asks for."""
    told = message.get("tool_calls")
    calls = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    return [_call(one) for one in calls]


def _call(told: dict[str, Any]) -> ToolCall:
    function = told.get("function")
    named: dict[str, Any] = function if isinstance(function, dict) else {}
    arguments = named.get("arguments", "")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    name = string(named.get("name")) or ""
    return ToolCall(
        id=string(told.get("id")),
        type=string(told.get("type")) or "function",
        function=Function(name, arguments),
    )


def string(value: object) -> str | None:
    return value if isinstance(value, str) else None


class TopLists(msgspec.Struct):
    """The alternatives at each token of a response, as lists; empty where there are none."""

    ids: list[list[int]]
    logprobs: list[list[float | None]]


def top_lists(rollout: Rollout) -> TopLists | None:
    """Return the alternatives as columns hold them; None if the engine sent none."""
    top = rollout.top()
    if top is None:
        return None
    ids, logprobs = top.ids.numbers(), top.logprobs.numbers()
    rows = range(0, len(ids), top.k)
    kept = [sum(value == value for value in logprobs[at : at + top.k]) for at in rows]
    return TopLists(
        ids=_cut(ids, top.k, kept),
        logprobs=_cut(logprobs, top.k, kept),
    )


def _cut(numbers: Sequence[Any], k: int, kept: list[int]) -> list[list[Any]]:
    return [list(numbers[row * k : row * k + count]) for row, count in enumerate(kept)]
