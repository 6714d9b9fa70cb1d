"""OpenAI's chat and completions: tokens, logprobs, usage and finish reasons, and what is injected.

A dialect decodes a response into a `Delta`, for one event of a stream and for one whole plain
response alike. The formats are OpenAI's with the fields that vLLM adds for `return_token_ids`;
fields that an engine omits are empty here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire.dialect import Api, ChoiceDelta, Delta, Dialect, Unreadable
from gateway.wire.error_body import error_message
from gateway.wire.reported.usage import Usage, usage_of
from gateway.wire.request import is_true
from gateway.wire.sse import DONE
from gateway.wire.stripping.places import IN_SGLEXT, OPENAI_CHAT


class _ChatLogprob(msgspec.Struct, gc=False):
    logprob: float | None
    id: int | None = None


class _ChatLogprobs(msgspec.Struct, gc=False):
    content: list[_ChatLogprob] | None = None


class _Message(msgspec.Struct, gc=False):
    content: Any = None  # text, or a list of parts


class _Provided(msgspec.Struct, gc=False):
    token_ids: list[int] | None = None


class _ChatChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    token_ids: list[int] | None = None
    response_token_ids: list[int] | None = None  # SGLang's name of the same
    logprobs: _ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    provider_specific_fields: _Provided | None = None


class _CompletionLogprobs(msgspec.Struct, gc=False):
    token_logprobs: list[float | None] | None = None
    content: list[_ChatLogprob] | None = None


class _CompletionChoice(msgspec.Struct, gc=False):
    index: int = 0
    text: str | None = None
    token_ids: list[int] | None = None
    logprobs: _CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None
    provider_specific_fields: _Provided | None = None


AnyChoice = TypeVar("AnyChoice")


class Answer(msgspec.Struct, Generic[AnyChoice], gc=False):
    """The fields of a response, and of an event of a stream, that the gateway reads."""

    choices: list[AnyChoice] = []
    prompt_token_ids: list[int] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    id: str | None = None
    model: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class Reader(msgspec.Struct, Generic[AnyChoice], frozen=True):
    """Decodes responses in which a response and an event alike hold a list of choices."""

    name: str
    decoder: msgspec.json.Decoder[Answer[AnyChoice]]
    choice: Callable[[AnyChoice, list[int] | None], ChoiceDelta]

    def read_event(self, data: bytes) -> Delta:
        return Delta(done=True) if data == DONE else self.read_answer(data)

    def read_answer(self, body: bytes) -> Delta:
        try:
            answer = self.decoder.decode(body)
        except NOT_JSON as error:
            message = f"the worker's answer cannot be read as {self.name}: {error}"
            raise Unreadable(message) from None
        return Delta(
            [self.choice(choice, answer.prompt_token_ids) for choice in answer.choices],
            _usage(bytes(answer.usage)),
            answer.id or "",
            answer.model or "",
            _message_of(bytes(answer.error)),
        )


def _chat_choice(choice: _ChatChoice, prompt_token_ids: list[int] | None) -> ChoiceDelta:
    message = choice.delta or choice.message
    entries = choice.logprobs.content if choice.logprobs is not None else None
    return ChoiceDelta(
        choice.index,
        _text(message.content) if message is not None else "",
        choice.token_ids
        or choice.response_token_ids
        or _other_ids(choice.provider_specific_fields, entries),
        [entry.logprob for entry in entries] if entries else [],
        choice.finish_reason,
        choice.stop_reason,
        prompt_token_ids,
    )


def _completion_choice(choice: _CompletionChoice, _: list[int] | None) -> ChoiceDelta:
    entries = choice.logprobs.content if choice.logprobs is not None else None
    token_ids = choice.token_ids or _other_ids(choice.provider_specific_fields, entries)
    logprobs = (choice.logprobs.token_logprobs if choice.logprobs is not None else None) or []
    if entries:
        logprobs = [entry.logprob for entry in entries]
    echoed = len(choice.prompt_token_ids or ())
    if echoed and len(logprobs) == echoed + len(token_ids):
        logprobs = logprobs[echoed:]  # with `echo` the prompt's logprobs come first
    return ChoiceDelta(
        choice.index,
        choice.text or "",
        token_ids,
        logprobs,
        choice.finish_reason,
        choice.stop_reason,
        choice.prompt_token_ids,
    )


def _usage(written: bytes) -> Usage | None:
    told = usage_of(written) if written else None
    return None if told is None else told.read()


def _text(content: object) -> str:
    """Return the text of a message; of a list of parts, those that are text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join([text for text in texts if isinstance(text, str)])


def _other_ids(provided: _Provided | None, entries: list[_ChatLogprob] | None) -> list[int]:
    if provided is not None and provided.token_ids:
        return provided.token_ids
    if not entries or entries[0].id is None:
        return []
    ids = [entry.id for entry in entries if entry.id is not None]
    return ids if len(ids) == len(entries) else []


def _message_of(error: bytes) -> str | None:
    if not error:
        return None
    try:
        return error_message(msgspec.json.decode(error))
    except NOT_JSON:
        return error.decode(errors="replace")


def want_ids(body: Mapping[str, object]) -> dict[str, object]:
    return {} if is_true(body.get("return_token_ids")) else {"return_token_ids": True}


def _want_completion_ids(body: Mapping[str, object]) -> dict[str, object]:
    return {} if is_true(body.get("echo")) else want_ids(body)


def _want_ids_of_sglang(body: Mapping[str, object]) -> dict[str, object]:
    # Its streams reject `return_token_ids`, and have in `sglext` what plain responses have.
    if not is_true(body.get("stream")):
        return want_ids(body)
    return {field: True for field in IN_SGLEXT if not is_true(body.get(field))}


def _want_chat_logprobs(body: Mapping[str, object]) -> dict[str, object]:
    wanted = is_true(body.get("logprobs"))
    refused = body.get("top_logprobs") or body.get("logprob_token_ids")
    return {} if wanted or refused else {"logprobs": True}


def _want_completion_logprobs(body: Mapping[str, object]) -> dict[str, object]:
    # A number of alternatives: 0 requests the sampled token alone; workers read false as 0.
    wanted = body.get("logprobs") is not None
    refused = body.get("logprob_token_ids")
    return {} if wanted or refused or is_true(body.get("echo")) else {"logprobs": 0}


def want_usage(body: Mapping[str, object]) -> dict[str, object]:
    options = body.get("stream_options")
    options = {} if options is None else options
    if not is_true(body.get("stream")) or not isinstance(options, dict):
        return {}
    if is_true(options.get("include_usage")):
        return {}
    return {"stream_options": {**options, "include_usage": True}}


_CHAT = Reader("chat", msgspec.json.Decoder(Answer[_ChatChoice]), _chat_choice)
_COMPLETIONS = Reader(
    "completions", msgspec.json.Decoder(Answer[_CompletionChoice]), _completion_choice
)

CHAT = Dialect(
    name="chat",
    paths=("/v1/chat/completions",),
    work="generates",
    max_tokens=("max_completion_tokens", "max_tokens"),
    several=True,
    tells_end=True,
    read_event=_CHAT.read_event,
    read_answer=_CHAT.read_answer,
    request_changes={"token_ids": want_ids, "logprobs": _want_chat_logprobs, "usage": want_usage},
    other_changes={"sglang": {"token_ids": _want_ids_of_sglang}},
    places=OPENAI_CHAT,
    id_prefix="chatcmpl-",
    object="chat.completion",
    event_object="chat.completion.chunk",
)
COMPLETIONS = Dialect(
    name="completions",
    paths=("/v1/completions",),
    work="generates",
    max_tokens=("max_tokens",),
    several=True,
    prompts="prompt",
    tells_end=True,
    read_event=_COMPLETIONS.read_event,
    read_answer=_COMPLETIONS.read_answer,
    request_changes={
        "token_ids": _want_completion_ids,
        "logprobs": _want_completion_logprobs,
        "usage": want_usage,
    },
    id_prefix="cmpl-",
    object="text_completion",
    event_object="text_completion",
)
CHAT_BATCH = Api(
    name="chat_batch",
    paths=("/v1/chat/completions/batch",),
    work="generates",
    max_tokens=("max_completion_tokens", "max_tokens"),
    several=True,
    prompts="messages",
    labelled=False,
)
"""Several conversations in one request. Its responses are like those of chat, see trace_capture."""
