"""Token usage of a response, for each API, read field by field.

OpenAI's chat and completions send `prompt_tokens` and `completion_tokens`, its responses and
Anthropic's messages `input_tokens` and `output_tokens`. Anthropic's `input_tokens` exclude tokens
from its cache, and its streams send the input in one event and the output in another. The tokens
from the cache have several names.

A field that cannot be read is passed by, and the usage says so; numbers as text, or with a point,
are read.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.errors import NOT_JSON
from gateway.wire.reported.repaired import repaired

MAX_TOKENS = 1 << 32
"""Maximum tokens of one call; a larger count is no count."""

DECODE_WHOLE_BELOW = 1_000
"""Offset of a usage, in bytes, up to which decoding the whole is faster than skipping to it.

The native kernel does likewise (kernel/native/record/usage.c).
"""

MAX_USAGE_BYTES = 8 * 1024
"""Maximum length of a usage inside text that is no JSON as a whole."""

_is_number = re.compile(r"\s*\d[\d.eE+]{0,31}\s*", re.ASCII).fullmatch
_EMPTY = frozenset((b"", b"null", b"[]", b'""'))
_NONE = frozenset[str]()

_Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one call, summed over all its prompts and choices.

    `cached_tokens` are the prompt tokens that the engine had in its cache, `reasoning_tokens` the
    completion tokens spent on reasoning and not on visible output. `counted`: the engine sent no
    usage, so the gateway counted the tokens in the part of the response that it received; the count
    of a prompt without ids is an estimate. `unread`: a part of the engine's usage could not be
    read, or contradicts the rest of its response; what could be counted takes its place.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    counted: bool = False
    unread: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def from_wire(cls, usage: object, timings: object = None) -> "Usage | None":
        """Convert a response's decoded `usage`; None if it is not in a format of an engine.

        `timings` is the member of that name, in which llama.cpp tells the cached tokens.
        """
        if not isinstance(usage, Mapping):
            return None
        told = _of_fields(usage)
        if timings is not None:
            _add_timings(told, Raw(msgspec.json.encode(timings)))
        return told.read()


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Tokens = None
    reasoning_tokens: _Tokens = None


class WireUsage(msgspec.Struct, gc=False):
    """`usage` as it is on the wire; None for a field that is absent, or among the `unread`."""

    prompt_tokens: _Tokens = None
    completion_tokens: _Tokens = None
    total_tokens: _Tokens = None
    input_tokens: _Tokens = None
    output_tokens: _Tokens = None
    cache_read_input_tokens: _Tokens = None
    cache_creation_input_tokens: _Tokens = None
    cached_tokens: _Tokens = None
    prompt_cache_hit_tokens: _Tokens = None
    num_cached_tokens: _Tokens = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    unread: frozenset[str] = _NONE

    def merged(self, later: "WireUsage") -> "WireUsage":
        """Return this usage, updated with the fields that a later event of the stream has."""
        fields = {**_set_fields(later), **dict.fromkeys(later.unread & _FIELDS)}
        fields["unread"] = (self.unread - fields.keys()) | later.unread
        return msgspec.structs.replace(self, **fields)

    @property
    def prompt(self) -> int | None:
        """Tokens of the prompt, from whichever fields tell them; None if none does."""
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        cached = (self.cache_read_input_tokens, self.cache_creation_input_tokens)
        if self.input_tokens is not None or any(cached):
            apart = 0 if self.input_tokens_details is not None else sum(filter(None, cached))
            return (self.input_tokens or 0) + apart
        completion = _or(self.completion_tokens, self.output_tokens)
        if completion is None and self.unread.isdisjoint(_OUTPUT):
            completion = 0  # nothing but a total, as for reranking
        return _rest(self.total_tokens, completion)

    @property
    def completion(self) -> int | None:
        """Tokens of the completion, likewise."""
        told = _or(self.completion_tokens, self.output_tokens)
        if told is None and not self.unread.isdisjoint(_OUTPUT):
            told = _rest(self.total_tokens, self.prompt)
        return told

    def read(self) -> Usage:
        """Convert to `Usage`; a count that is not told is 0."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        if prompt is None or completion is None:
            prompt, completion = self.prompt or 0, self.completion or 0
        details = self.prompt_tokens_details or self.input_tokens_details
        cached = None if details is None else details.cached_tokens
        if cached is None:
            cached = (
                self.cache_read_input_tokens
                or self.cached_tokens
                or self.prompt_cache_hit_tokens
                or self.num_cached_tokens
                or 0
            )
        details = self.completion_tokens_details or self.output_tokens_details
        thought = 0 if details is None else details.reasoning_tokens or 0
        unread = bool(self.unread)
        if cached > prompt or 0 < completion < thought:
            cached, thought, unread = min(cached, prompt), min(thought, completion or thought), True
        return Usage(prompt, completion, cached, thought, unread=unread)


_OUTPUT = frozenset({"completion_tokens", "output_tokens"})
_FIELDS = frozenset(WireUsage.__struct_fields__) - {"unread"}
_DETAILS = frozenset(name for name in _FIELDS if name.endswith("_details"))


class _Within(msgspec.Struct, gc=False):
    usage: Raw = Raw()


class _Timings(msgspec.Struct, gc=False):
    """llama.cpp's; `cache_n` are the prompt's tokens from the cache."""

    cache_n: _Tokens = None


class _Envelope(msgspec.Struct, gc=False):
    """A response or an event: its usage, or the object that may hold one."""

    usage: Raw = Raw()
    response: Raw = Raw()
    message: Raw = Raw()
    timings: Raw = Raw()


class _Usual(msgspec.Struct, gc=False):
    """The same, with a usage of which each field can be read."""

    usage: WireUsage | UnsetType | None = UNSET
    response: Raw = Raw()
    message: Raw = Raw()
    timings: Raw = Raw()


_read = msgspec.json.Decoder(_Envelope).decode
_read_usual = msgspec.json.Decoder(_Usual).decode
_decode_usage = msgspec.json.Decoder(WireUsage | None).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_timings = msgspec.json.Decoder(_Timings).decode
_decode_any = msgspec.json.Decoder().decode
_read_within = msgspec.json.Decoder(_Within).decode


def read_usage(data: bytes) -> WireUsage | None:
    """Return the usage of a plain response or of an event, for any API, if any; never raises."""
    start = data.rfind(b'"usage":')  # see _read_end
    try:
        answer = _read_usual(b"{" + data[start:] if start > DECODE_WHOLE_BELOW else data)
    except NOT_JSON:
        return _read_unusual(data)
    usage = answer.usage
    if usage is UNSET:
        return _read_part(answer.response, answer.message)
    if usage is not None and (timings := answer.timings):
        _add_timings(usage, timings)
    return usage


def _read_unusual(data: bytes) -> WireUsage | None:
    """Read a usage that is nested, or of which a field cannot be read."""
    try:
        answer = _read_end(data)
    except NOT_JSON:
        return _read_from_text(data)
    if not bytes(answer.usage):
        return _read_part(answer.response, answer.message)
    usage = usage_of(bytes(answer.usage))
    if usage is not None and bytes(answer.timings):
        _add_timings(usage, answer.timings)
    return usage


def _read_part(*parts: Raw) -> WireUsage | None:
    """Read the usage within the first part that is an object."""
    for part in parts:
        if bytes(part).startswith(b"{"):
            with suppress(*NOT_JSON):
                return usage_of(bytes(_read_within(part).usage))
    return None


def _read_end(data: bytes) -> _Envelope:
    """Decode from the last `"usage":` on if that is the end of a valid object, which is faster.

    The match is a key and not text, as quotation marks are escaped in text. If it is a key of a
    nested object, the rest closes more brackets than it opens and does not decode; then decode the
    whole.
    """
    start = data.rfind(b'"usage":')
    if start > DECODE_WHOLE_BELOW:
        with suppress(*NOT_JSON):
            return _read(b"{" + data[start:])
    return _read(data)


def _read_from_text(data: bytes) -> WireUsage | None:
    """Read the last usage of a response that is no JSON, such as one with a logprob `-Infinity`."""
    start = data.rfind(b'"usage":')
    if start < 0:
        return None
    text = data[start + 8 : start + 8 + MAX_USAGE_BYTES].lstrip()
    end = text.find(b"}") if text.startswith(b"{") else -1
    while end >= 0:
        with suppress(*NOT_JSON):
            return usage_of(bytes(msgspec.json.decode(repaired(text[: end + 1]), type=Raw)))
        end = text.find(b"}", end + 1)
    return WireUsage(unread=frozenset({"usage"})) if text.startswith(b"{") else None


def usage_of(written: bytes) -> WireUsage | None:
    """Read a usage that is valid JSON; None if it is null or empty."""
    if written in _EMPTY:
        return None
    try:
        usage: WireUsage | None = _decode_usage(written)
        return usage
    except NOT_JSON:
        pass
    try:
        fields = _decode_fields(written)
    except NOT_JSON:
        return WireUsage(unread=frozenset({"usage"}))
    return _of_fields({name: _value(fields[name]) for name in fields if name in _FIELDS})


def _add_timings(usage: WireUsage, timings: Raw) -> None:
    if usage.prompt_tokens_details is None:
        with suppress(*NOT_JSON):
            usage.num_cached_tokens = _decode_timings(timings).cache_n


def _value(written: Raw) -> Any:
    try:
        return _decode_any(written)
    except NOT_JSON:  # a number out of range
        return float("nan")


def _of_fields(fields: Mapping[Any, object]) -> WireUsage:
    """Return the usage with each field that can be read."""
    usage, unread = WireUsage(), set[str]()
    for name in _FIELDS & fields.keys():
        try:
            known = _details if name in _DETAILS else _count
            setattr(usage, name, known(fields[name]))
        except (ValueError, TypeError, OverflowError):
            unread.add(name)
    usage.unread = frozenset(unread)
    return usage


def _details(value: object) -> _Details | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError("details must be an object")
    return _Details(_count(value.get("cached_tokens")), _count(value.get("reasoning_tokens")))


def _count(value: object) -> int | None:
    """Read a number of tokens. Raises ValueError, TypeError or OverflowError if it is none."""
    if value is None:
        return None
    if isinstance(value, str) and _is_number(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a count must be a number")
    if not 0 <= value <= MAX_TOKENS or value != int(value):
        raise ValueError("this is no number of tokens")
    return int(value)


def tokens_of(value: object) -> int | None:
    """Return a decoded number of tokens, also from text or a float; None if it is none."""
    if type(value) is int and 0 <= value <= MAX_TOKENS:
        return value
    try:
        return _count(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _or(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def _rest(total: int | None, part: int | None) -> int | None:
    return None if total is None or part is None or part > total else total - part


def _set_fields(usage: WireUsage) -> dict[str, object]:
    values = ((name, getattr(usage, name)) for name in usage.__struct_fields__)
    return {name: value for name, value in values if value is not None and name != "unread"}
