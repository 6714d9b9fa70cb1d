"""Shapes of chat: requests as the gateway writes them, responses as translators read them.

The text of a response stays as the engine wrote it, JSON between quotes: it is moved into another
event and neither decoded nor encoded. Fields that nobody needs are passed over.
"""

import random
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType, ValidationError

from gateway.errors import NOT_JSON
from gateway.wire import surrogates

ABSENT = Raw(b"null")
EMPTY = Raw(b'""')


class Function(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A tool, as the model is told of it."""

    name: str
    description: str | None = None
    parameters: object = UNSET
    strict: bool | None = None
    defer_loading: bool | None = None


class Tool(msgspec.Struct, kw_only=True):
    function: Function
    type: Literal["function"] = "function"


class CalledFunction(msgspec.Struct, kw_only=True):
    """`arguments` are JSON in a string."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, kw_only=True):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class Message(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One message of a request; `content` is a text or a list of parts."""

    role: str
    content: object = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class StreamOptions(msgspec.Struct, omit_defaults=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Request(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of a chat request, with vLLM's own fields."""

    messages: list[Message]
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[Tool] | None = None
    tool_choice: object = None
    parallel_tool_calls: bool | None = None
    response_format: object = None
    reasoning_effort: str | None = None
    thinking_token_budget: int | None = None
    verbosity: str | None = None
    include_reasoning: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: object = None
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    truncate_prompt_tokens: int | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    structured_outputs: object = None
    priority: int = 0
    session_id: str | None = None
    media_io_kwargs: object = None
    mm_processor_kwargs: object = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    watermarking: bool | None = None
    cache_salt: str | None = None
    kv_transfer_params: object = None
    ec_transfer_params: object = None
    vllm_xargs: object = None
    chat_template_kwargs: object = None


class PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    created_cache_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The engine's count; `prompt_tokens` are all, those from a cache among them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class FunctionDelta(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Raw = ABSENT


class ToolCallDelta(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct, gc=False):
    """What one event adds: JSON strings, or null. `reasoning_content` is its older name."""

    content: Raw = ABSENT
    reasoning: Raw = ABSENT
    reasoning_content: Raw = ABSENT
    tool_calls: list[ToolCallDelta] | None = None
    refusal: Raw = ABSENT


def is_text(value: Raw) -> bool:
    """Whether a member of a Delta is a text with anything in it."""
    return value is not ABSENT and value != EMPTY and value != ABSENT


def text_of(value: Raw) -> bytes:
    """Return a member of a Delta as a JSON string. Raises msgspec.ValidationError."""
    text = bytes(value)
    if text[:1] != b'"':
        raise ValidationError("a text is no string")
    return text


def new_call_id() -> str:
    """Return an id for a call to which its server gave none."""
    return f"call_{random.getrandbits(96):024x}"


class CallIds:
    """Gives each tool call of one response an id of its own: some servers give one id twice.

    The latest MAX_IDS are remembered: a server may begin as many calls as it likes.
    """

    __slots__ = ("_numbers",)

    MAX_IDS = 200

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, id_: str | None, number: int) -> str:
        """Return the id for the call with a server's id and number, which begins.

        Raises msgspec.ValidationError if it was ended by what came after it: callers would run a
        call of which a part is missing.
        """
        if not id_:
            return new_call_id()
        known = self._numbers.get(id_)
        if known == number:
            raise ValidationError("a tool call that goes on after its end")
        if known is not None:
            return new_call_id()
        if len(self._numbers) >= self.MAX_IDS:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[id_] = number
        return id_


NO_DELTA = Delta()


GIVEN_UP = ("abort", "error")
"""Finish reasons of a generation that the engine gave up; what is there of it is a beginning."""

ENDED_EARLY = "The worker ended the response early."
"""What callers of other APIs than chat are told of such a generation."""


class ChunkChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Delta | None = None
    logprobs: Raw = ABSENT
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Step(msgspec.Struct, gc=False):
    """What one event of a chat stream adds, and nothing else of it: cheaper to decode."""

    choices: list[ChunkChoice] | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event of a chat stream, or the error in its place."""

    id: str | None = None
    model: str | None = None
    choices: list[ChunkChoice] | None = None
    usage: Raw = ABSENT
    error: Raw = ABSENT


class AnswerCall(msgspec.Struct):
    """A call of a tool; some servers give it no id."""

    function: CalledFunction
    id: str | None = None


class AnswerMessage(msgspec.Struct):
    """The message of a plain response; its texts are decoded."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnswerCall] | None = None
    refusal: str | None = None


class AnswerChoice(msgspec.Struct):
    message: AnswerMessage
    index: int = 0
    logprobs: Raw = ABSENT
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Answer(msgspec.Struct):
    """A plain chat response."""

    choices: list[AnswerChoice]
    id: str | None = None
    model: str | None = None
    created: int | None = None
    usage: Raw = ABSENT
    kv_transfer_params: Raw = ABSENT
    ec_transfer_params: Raw = ABSENT


def first_of(choices: Sequence[ChunkChoice]) -> ChunkChoice | None:
    """Return the choice that is told to the caller; None if there are only others."""
    return next((choice for choice in choices if choice.index == 0), None)


def read_chunk(data: bytes) -> Chunk:
    """Return the chunk in `data`. Raises one of NOT_JSON."""
    try:
        return _decode_chunk(data)
    except NOT_JSON:
        if not surrogates.may_have_half(data):
            raise
        return _decode_chunk(surrogates.readable(data))


def read_answer(body: bytes) -> Answer:
    """Return the plain response in `body`. Raises one of NOT_JSON."""
    try:
        return _decode_answer(body)
    except NOT_JSON:
        if not surrogates.may_have_half(body):
            raise
        return _decode_answer(surrogates.readable(body))


def read_usage(raw: bytes) -> Usage | None:
    """Return the usage in the JSON of a response's; None if it is none: a count is no answer."""
    try:
        return _decode_usage(raw)
    except NOT_JSON:
        return None


decode_step = msgspec.json.Decoder(Step).decode
_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_usage = msgspec.json.Decoder(Usage | None).decode
encode = msgspec.json.Encoder().encode
