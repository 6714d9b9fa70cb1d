"""Decoders of tokens, logprobs, usage and finish reasons, for each API.

A dialect decodes a response into a `Delta`, for one event of a stream and for one whole plain
response alike. The formats are OpenAI's with the fields that vLLM adds for `return_token_ids`;
fields that an engine omits are empty here.

Token ids are the only exact record of the sampled tokens. Text cannot be converted back to them: a
token that ends inside a character has an id and a logprob but no text of its own, a stop string
hides tokens that were sampled, and the end-of-sequence token has no text at all.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from gateway.wire.dialect import ChoiceDelta, Delta, Dialect, Unreadable
from gateway.wire.usage import ToldUsage


class _ChatLogprob(msgspec.Struct, gc=False):
    logprob: float | None


class _ChatLogprobs(msgspec.Struct, gc=False):
    content: list[_ChatLogprob] | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None


class _ChatChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    token_ids: list[int] | None = None
    logprobs: _ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _CompletionLogprobs(msgspec.Struct, gc=False):
    token_logprobs: list[float | None] | None = None


class _CompletionChoice(msgspec.Struct, gc=False):
    index: int = 0
    text: str | None = None
    token_ids: list[int] | None = None
    logprobs: _CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None


_Choice = TypeVar("_Choice")


class _Answer(msgspec.Struct, Generic[_Choice], gc=False):
    choices: list[_Choice] = []
    prompt_token_ids: list[int] | None = None
    usage: ToldUsage | None = None
    id: str | None = None
    model: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    message: str


class _Choices(msgspec.Struct, Generic[_Choice], frozen=True):
    """A dialect in which a response and an event alike hold a list of choices."""

    name: str
    decoder: msgspec.json.Decoder[_Answer[_Choice]]
    choice: Callable[[_Choice, list[int] | None], ChoiceDelta]

    def read_event(self, data: bytes) -> Delta:
        return Delta(done=True) if data == b"[DONE]" else self.read_answer(data)

    def read_answer(self, body: bytes) -> Delta:
        try:
            answer = self.decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = f"the worker's answer cannot be read as {self.name}: {error}"
            raise Unreadable(message) from None
        return Delta(
            [self.choice(choice, answer.prompt_token_ids) for choice in answer.choices],
            None if answer.usage is None else answer.usage.read(),
            answer.id or "",
            answer.model or "",
            _error_message(bytes(answer.error)),
        )


def _chat_choice(choice: _ChatChoice, prompt_token_ids: list[int] | None) -> ChoiceDelta:
    message = choice.delta or choice.message
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    return ChoiceDelta(
        choice.index,
        (message.content or "") if message is not None else "",
        choice.token_ids or [],
        [entry.logprob for entry in logprobs] if logprobs else [],
        choice.finish_reason,
        choice.stop_reason,
        prompt_token_ids,
    )


def _completion_choice(choice: _CompletionChoice, _: list[int] | None) -> ChoiceDelta:
    token_ids = choice.token_ids or []
    logprobs = (choice.logprobs.token_logprobs if choice.logprobs is not None else None) or []
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


def _error_message(error: bytes) -> str | None:
    """Return the message of an error, its raw text if its shape is unknown, or None if no error."""
    if not error or error == b"null":
        return None
    try:
        known = msgspec.json.decode(error, type=_Error | str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return error.decode(errors="replace")
    return known if isinstance(known, str) else known.message


CHAT: Dialect = _Choices("chat", msgspec.json.Decoder(_Answer[_ChatChoice]), _chat_choice)
COMPLETIONS: Dialect = _Choices(
    "completions", msgspec.json.Decoder(_Answer[_CompletionChoice]), _completion_choice
)
