"""Token usage of a response, for each API, and a count for responses without it.

OpenAI's chat and completions send `prompt_tokens` and `completion_tokens`, its responses and
Anthropic's messages `input_tokens` and `output_tokens`. Anthropic's `input_tokens` exclude tokens
from its cache, and its streams send the input in one event and the output in another.
"""

from contextlib import suppress

import msgspec
from msgspec import Raw

MAX_TOKENS = 1 << 32
"""Maximum tokens of one call; larger counts from a worker are lowered to it."""

DECODE_WHOLE_BELOW = 1_000
"""Offset of a usage, in bytes, up to which decoding the whole is faster than skipping to it."""

_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one call, summed over all its prompts and choices.

    `cached_tokens` are the prompt tokens that the engine had in its cache, `reasoning_tokens` the
    completion tokens spent on reasoning and not on visible output. `counted`: the engine sent no
    usage, so the gateway counted the tokens in the part of the response that it received; the count
    of a prompt without ids is an estimate.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    counted: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def from_wire(cls, usage: object) -> "Usage | None":
        """Convert a response's decoded `usage`; None if it is not in a format of an engine."""
        try:
            return msgspec.convert(usage, WireUsage).read()
        except msgspec.ValidationError:
            return None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """`usage` as it is on the wire; None for a field that is absent."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None

    def merged(self, later: "WireUsage") -> "WireUsage":
        """Return this usage, updated with the fields that a later event of the stream has."""
        return msgspec.structs.replace(self, **_set_fields(later))

    def read(self) -> Usage:
        """Convert to `Usage`; impossible counts are clipped to 0 and MAX_TOKENS."""
        prompt, completion, cached = self.prompt_tokens, self.completion_tokens, 0
        if prompt is None:
            cached = self.cache_read_input_tokens or 0
            prompt = (self.input_tokens or 0) + cached + (self.cache_creation_input_tokens or 0)
        if completion is None:
            completion = self.output_tokens or 0
        details = self.prompt_tokens_details or self.input_tokens_details
        if details is not None:
            cached = details.cached_tokens or cached
        details = self.completion_tokens_details or self.output_tokens_details
        thought = 0 if details is None else details.reasoning_tokens or 0
        tokens = (prompt, completion, cached, thought)
        if min(tokens) < 0 or max(tokens) > MAX_TOKENS:
            prompt, completion, cached, thought = (min(max(one, 0), MAX_TOKENS) for one in tokens)
        return Usage(prompt, completion, cached, thought)


class _Within(msgspec.Struct, gc=False):
    usage: WireUsage | None = None


class _Envelope(msgspec.Struct, gc=False):
    """A response or an event: its usage, or the object that may hold one."""

    usage: Raw = Raw()
    response: Raw = Raw()
    message: Raw = Raw()


_read = msgspec.json.Decoder(_Envelope).decode
_decode_usage = msgspec.json.Decoder(WireUsage | None).decode
_read_within = msgspec.json.Decoder(_Within).decode


def read_usage(data: bytes) -> WireUsage | None:
    """Return the usage of a plain response or of an event, for any API, if any; never raises."""
    try:
        answer = _read_end(data)
        if bytes(answer.usage):
            usage: WireUsage | None = _decode_usage(answer.usage)
            return usage
        for part in (answer.response, answer.message):
            if bytes(part).startswith(b"{"):
                return _read_within(part).usage
    except _FAILURES:
        pass
    return None


def _read_end(data: bytes) -> _Envelope:
    """Decode from the last `"usage":` on if that is the end of a valid object, which is faster.

    The match is a key and not text, as quotation marks are escaped in text. If it is a key of a
    nested object, the rest closes more brackets than it opens and does not decode; then decode the
    whole.
    """
    start = data.rfind(b'"usage":')
    if start > DECODE_WHOLE_BELOW:
        with suppress(*_FAILURES):
            return _read(b"{" + data[start:])
    return _read(data)


class _Output(msgspec.Struct, gc=False):
    content: Raw = Raw()
    reasoning: Raw = Raw()
    reasoning_content: Raw = Raw()
    tool_calls: Raw = Raw()


class _Logprobs(msgspec.Struct, gc=False):
    content: list[Raw] | None = None
    tokens: list[Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Output | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: Raw = Raw()
    logprobs: _Logprobs | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    prompt_token_ids: Raw = Raw()
    type: str = ""


_read_event = msgspec.json.Decoder(_Event).decode

_SILENT = frozenset((b"", b"null", b'""', b"[]"))
_PARTS = (".delta", "_delta")
"""Suffixes of the types of events that add output, in the responses and messages APIs."""


class Count:
    """Counts the tokens of a stream, event by event.

    Counts token ids; if there are none, logprobs; if there are none either, events.
    """

    __slots__ = ("_events", "_ids", "_logprobs", "_prompts")

    def __init__(self) -> None:
        self._ids = self._logprobs = self._events = 0
        self._prompts: dict[int, int] = {}

    def add(self, data: bytes) -> None:
        """Add one event's data; an event that cannot be decoded counts for nothing."""
        try:
            event = _read_event(data)
        except _FAILURES:
            return
        if prompt := _length(event.prompt_token_ids):
            self._prompts[0] = prompt
        if event.type.endswith(_PARTS):
            self._events += 1
        for choice in event.choices:
            self._add_choice(choice)

    def _add_choice(self, choice: _Choice) -> None:
        if prompt := _length(choice.prompt_token_ids):
            self._prompts[choice.index] = prompt
        self._ids += len(choice.token_ids or ())
        if choice.logprobs is not None:
            self._logprobs += len(choice.logprobs.content or choice.logprobs.tokens or ())
        self._events += _has_output(choice)

    @property
    def completion(self) -> int:
        return self._ids or self._logprobs or self._events

    def prompt(self, choices: int) -> int | None:
        """Number of tokens of all prompts, each with `choices` choices; None if no ids came."""
        if not self._prompts:
            return None
        return sum(n for index, n in self._prompts.items() if index % max(choices, 1) == 0)


def _length(ids: Raw) -> int:
    """Length of an encoded list of numbers: decoding 100,000 would block all other calls."""
    written = bytes(ids)
    return written.count(b",") + 1 if written.startswith(b"[") and len(written) > 2 else 0


def _has_output(choice: _Choice) -> bool:
    if choice.text:
        return True
    said = choice.delta
    if said is None:
        return False
    parts = (said.content, said.reasoning, said.reasoning_content, said.tool_calls)
    return any(bytes(part) not in _SILENT for part in parts)


def _set_fields(usage: WireUsage) -> dict[str, object]:
    values = ((name, getattr(usage, name)) for name in usage.__struct_fields__)
    return {name: value for name, value in values if value is not None}
