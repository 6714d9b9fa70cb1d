"""Where tokens, logprobs, usage and finish reasons are on the wire, for each API.

A dialect reads an answer into a `Delta`, the same for one event of a stream and for one whole plain
answer. The formats are OpenAI's with the fields that vLLM adds for `return_token_ids`; what an
engine leaves out is empty here.

Token ids are the only true record of what was sampled. Text does not give them back: a token that
ends inside a character has an id and a logprob but no text of its own, a stop string hides tokens
that were sampled, and the end-of-sequence token has no text at all.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar
from urllib.parse import unquote

import msgspec

from gateway.errors import GatewayError
from gateway.wire.usage import ToldUsage, Usage


class Unreadable(GatewayError):
    """What a worker sent is not an answer in this dialect."""


class ChoiceDelta(msgspec.Struct, frozen=True, gc=False):
    """What one event of a stream, or a plain answer, adds to one choice.

    `index` is prompt * n + i where a call has several prompts. `token_ids` are those sampled,
    without text or not, end of sequence included; `logprobs` has one value for each, in natural
    logarithms, None where the engine sent null (its -9999.0 for minus infinity stays). Each is
    empty where the engine did not give it. `prompt_token_ids` comes once for each choice, whatever
    the dialect: in its plain answer, or on its first event.
    """

    index: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What one event of a stream, or a plain answer, says.

    `usage` comes at the end or not at all, but where the caller asked for `continuous_usage_stats`
    each event has its own, counting up. `error` is the message of an error that came in place of an
    answer; a stream may still end as usual (`done`) after it.
    """

    choices: list[ChoiceDelta] = []
    usage: Usage | None = None
    id: str = ""
    model: str = ""
    error: str | None = None
    done: bool = False


class Dialect(Protocol):
    """How one API is read. Whatever the bytes, nothing but Unreadable is raised."""

    @property
    def name(self) -> str: ...

    def read_event(self, data: bytes) -> Delta:
        """What an event of a stream says, from its data."""

    def read_answer(self, body: bytes) -> Delta:
        """What a whole plain answer says."""


def dialect_of(path: str) -> Dialect | None:
    """The dialect of a path as the caller sends it, without the query; None where it has none."""
    return _BY_PATH.get(unquote(path) if "%" in path else path)  # as the worker reads it


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
    """A dialect whose answers and events alike are a list of choices."""

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
        logprobs = logprobs[echoed:]  # with `echo` those of the prompt come first
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
    """An error is never lost for having an unforeseen shape: it is then given as it came."""
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

_BY_PATH = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETIONS}
