"""The differences between chat and completions responses, as one Form for each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers.assembled import Part
from gateway_plugins.trace_capture.answers.deltas import joined
from gateway_plugins.trace_capture.answers.openai.numbers import chat_part, completion_part
from gateway_plugins.trace_capture.answers.openai.structs import (
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatEvent,
    ChatLogprobs,
    CompletionChoice,
    CompletionEvent,
    CompletionLogprobs,
    MaybeAny,
    PlainChat,
    PlainCompletion,
)
from gateway_plugins.trace_capture.answers.tool_calls import ToolCalls

_LISTS = tuple(CompletionLogprobs.__struct_fields__)


class Form(msgspec.Struct, frozen=True):
    """Types and functions for reading one of the two APIs.

    `answer_lists`, `choice_lists` and `logprob_lists` name the lists of numbers in a response, in a
    choice, and in a choice's logprobs. `first` are the fields that the first event tells of the
    response, `of_choice` those that the events of a choice tell of its end, beside the usual ones.
    `part` makes a Part from a choice's chunks. `settle` makes
    the other fields of a plain choice from them, and says whether they contradict each other.
    """

    object: str
    plain: Callable[[bytes], Any]
    events: Callable[[bytes], list[Any]]
    event: type[Any]
    choice: type[Any]
    chunk: type[Any]
    answer_lists: tuple[str, ...]
    choice_lists: tuple[str, ...]
    logprob_lists: tuple[str, ...]
    lenient_logprobs: Callable[[Mapping[str, Any]], Any]
    part: Callable[[Sequence[Any], int, list[int]], Part]
    settle: Callable[[Sequence[Any]], tuple[dict[str, Any], bool]]
    first: tuple[str, ...] = ("id", "created", "model")
    of_choice: tuple[str, ...] = ()


def _settle_chat(chunks: Sequence[ChatChunk]) -> tuple[dict[str, Any], bool]:
    message, contradicts = _message([chunk.delta for chunk in chunks])
    return {"message": message}, contradicts


def _message(deltas: list[ChatDelta]) -> tuple[dict[str, Any], bool]:
    rare = [
        delta
        for delta in deltas
        if delta.role
        or delta.reasoning
        or delta.reasoning_content
        or delta.tool_calls
        or delta.refusal
    ]
    roles = [delta.role for delta in rare if delta.role]
    message: dict[str, Any] = {
        "role": roles[0] if roles else "assistant",
        "content": joined([delta.content for delta in deltas]),
    }
    for name in ("refusal", "reasoning", "reasoning_content"):
        if text := joined([getattr(delta, name) for delta in rare]):
            message[name] = text
    calls = ToolCalls()
    for delta in rare:
        for fragment in delta.tool_calls or ():
            calls.add(fragment)
    if settled := calls.settled():
        message["tool_calls"] = settled
    return message, calls.contradicts or len(set(roles)) > 1


def _settle_completion(chunks: Sequence[CompletionChoice]) -> tuple[dict[str, Any], bool]:
    return {"text": "".join([chunk.text for chunk in chunks if chunk.text])}, False


def checked_content(scores: Mapping[str, Any]) -> MaybeAny:
    """Return the `content` of a choice's logprobs; raise TypeError if it is no list of objects."""
    content = scores.get("content", msgspec.UNSET)
    if not (content is None or content is msgspec.UNSET or isinstance(content, list)):
        raise TypeError("the content of logprobs must be a list")
    if content and not all(isinstance(entry, dict) for entry in content):
        raise TypeError("an entry of logprobs must be an object")
    return content


def _lenient_chat_logprobs(scores: Mapping[str, Any]) -> ChatLogprobs:
    return ChatLogprobs(checked_content(scores))


def _lenient_completion_logprobs(scores: Mapping[str, Any]) -> CompletionLogprobs:
    known = {name: scores[name] for name in _LISTS if name in scores}
    return msgspec.convert(known, CompletionLogprobs)


CHAT = Form(
    "chat.completion",
    msgspec.json.Decoder(PlainChat).decode,
    msgspec.json.Decoder(list[ChatEvent]).decode,
    ChatEvent,
    ChatChoice,
    ChatChunk,
    ("prompt_token_ids", "prompt_logprobs"),
    ("token_ids", "prompt_token_ids"),
    ("content",),
    _lenient_chat_logprobs,
    chat_part,
    _settle_chat,
)
COMPLETIONS = Form(
    "text_completion",
    msgspec.json.Decoder(PlainCompletion).decode,
    msgspec.json.Decoder(list[CompletionEvent]).decode,
    CompletionEvent,
    CompletionChoice,
    CompletionChoice,
    (),
    ("token_ids", "prompt_token_ids", "prompt_logprobs"),
    _LISTS,
    _lenient_completion_logprobs,
    completion_part,
    _settle_completion,
)
