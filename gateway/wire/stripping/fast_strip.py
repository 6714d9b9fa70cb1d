"""Strips injected fields from responses and events in one pass, if the result is certainly exact.

`injection.Stripper` handles any response, but decodes it twice. Most events of a stream differ only
in their one choice: the bytes before and after the choice, the event's Frame, stay the same. If an
event has the frame of one that was decoded in full, only the choice is decoded, into a Struct that
keeps each value as its own bytes and has the keys that engines send, in an order in which they send
them. If encoding the Struct gives the same bytes again, the choice certainly has these keys, each
once and in that order; the Struct may then be encoded with nulls. Otherwise the Stripper decodes
the event. A plain response is handled in the same way, as a whole.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.kernel.interface import Cut, Functions
from gateway.wire.stripping.answer_text import AnswerText
from gateway.wire.stripping.any_frame import AnyFrame, any_frame_of
from gateway.wire.stripping.unasked import Unasked

# `omit_defaults` compares by identity: an absent key is not written, a null that came is.
ABSENT = Raw(b"null")
NULL = Raw(b"null")
_EMPTY_OBJECT = Raw(b"{}")
_FINISHES = b'"finish_reason":"'

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


class Exact(msgspec.Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A struct that encodes only the keys that it was decoded with."""


class Choice(Exact):
    """Choice of an event, in the key order of vLLM, SGLang and OpenAI."""

    index: Raw = ABSENT
    delta: Raw = ABSENT
    text: Raw = ABSENT
    logprobs: Raw = ABSENT
    finish_reason: Raw = ABSENT
    stop_reason: Raw = ABSENT
    matched_stop: Raw = ABSENT
    prompt_token_ids: Raw = ABSENT
    token_ids: Raw = ABSENT


class _SortedChoice(Exact):
    """Choice of an event or a plain response, from engines that sort all keys."""

    delta: Raw = ABSENT
    finish_reason: Raw = ABSENT
    index: Raw = ABSENT
    logprobs: Raw = ABSENT
    message: Raw = ABSENT
    prompt_token_ids: Raw = ABSENT
    stop_reason: Raw = ABSENT
    text: Raw = ABSENT
    token_ids: Raw = ABSENT


class _WholeChoice(Exact):
    """Choice of a plain response."""

    index: Raw = ABSENT
    message: Raw = ABSENT
    text: Raw = ABSENT
    logprobs: Raw = ABSENT
    finish_reason: Raw = ABSENT
    stop_reason: Raw = ABSENT
    matched_stop: Raw = ABSENT
    token_ids: Raw = ABSENT
    prompt_logprobs: Raw = ABSENT
    prompt_token_ids: Raw = ABSENT
    routed_experts: Raw = ABSENT


class _Answer(Exact):
    id: Raw = ABSENT
    object: Raw = ABSENT
    created: Raw = ABSENT
    model: Raw = ABSENT
    choices: list[_WholeChoice] = []
    service_tier: Raw = ABSENT
    system_fingerprint: Raw = ABSENT
    usage: Raw = ABSENT
    prompt_logprobs: Raw = ABSENT
    prompt_token_ids: Raw = ABSENT
    prompt_text: Raw = ABSENT
    kv_transfer_params: Raw = ABSENT
    ec_transfer_params: Raw = ABSENT
    metrics: Raw = ABSENT
    metadata: Raw = ABSENT


class _SortedAnswer(Exact):
    choices: list[_SortedChoice] = []
    created: Raw = ABSENT
    id: Raw = ABSENT
    model: Raw = ABSENT
    object: Raw = ABSENT
    prompt_token_ids: Raw = ABSENT
    system_fingerprint: Raw = ABSENT
    usage: Raw = ABSENT


class _Order(msgspec.Struct, frozen=True):
    """Decoders of choices with one key order: of one choice, and of a list of them. Its `keys`."""

    one: Callable[[bytes], Choice | _SortedChoice]
    many: Callable[[bytes], list[Choice] | list[_SortedChoice]]
    keys: tuple[bytes, ...]


def _keys(choice: type[Exact]) -> tuple[bytes, ...]:
    return tuple(name.encode() for name in choice.__struct_fields__)


_ORDERS = (
    _Order(
        msgspec.json.Decoder(Choice).decode,
        msgspec.json.Decoder(list[Choice]).decode,
        _keys(Choice),
    ),
    _Order(
        msgspec.json.Decoder(_SortedChoice).decode,
        msgspec.json.Decoder(list[_SortedChoice]).decode,
        _keys(_SortedChoice),
    ),
)


class Frame:
    """The bytes around the choice of one event, and the order of the choice's keys.

    `blank`: the fields of a choice to set to null. `drop_empty`: drop an event that has nothing
    besides these fields.
    """

    __slots__ = ("_after", "_before", "_between", "_drop_empty", "_ids", "_logprobs", "_order")

    def __init__(
        self,
        before: bytes,
        after: bytes,
        order: _Order,
        blank: Collection[str],
        *,
        drop_empty: bool,
    ) -> None:
        self._before = before
        self._after = after
        self._between = after + before
        self._order = order
        self._ids = "token_ids" in blank
        self._logprobs = "logprobs" in blank
        self._drop_empty = drop_empty

    def cut(self, functions: Functions, *, through: bool = False) -> Cut | None:
        """Return what a kernel strips the events of this frame with; None if it has nothing."""
        return functions.cut(
            self._before,
            self._after,
            self._order.keys,
            self._ids,
            self._logprobs,
            self._drop_empty,
            through,
        )

    def strip_one(self, raw: bytes) -> bytes | None:
        """Return the event `raw` with nulls for injected fields, or b"" if the event is dropped.

        None if the event has another frame or key order, finishes its choice, lacks a field by
        which engines differ (see gateway.wire.stripping.unasked), or is not a single event.
        """
        before, after = self._before, self._after
        if not (raw.startswith(before) and raw.endswith(after)):
            return None
        bare = raw[len(before) : -len(after)]
        if not _is_one_line(bare):
            return None
        try:
            choice = self._order.one(bare)
        except NOT_JSON:
            return None
        if (
            choice.finish_reason != NULL
            or choice.finish_reason is ABSENT
            or (choice.logprobs is ABSENT and self._logprobs)
            or _encode(choice) != bare
        ):
            return None
        return before + _encode(choice) + after if self._blank(choice) else b""

    def strip_run(self, text: bytes) -> tuple[bytes, int] | None:
        """Strip the leading events of `text`; return the result and the number of bytes consumed.

        Stops before the first event that `strip_one` does not take, and before the last event of
        the frame, which may be incomplete. None if there is no such event, or if one must be
        decoded in full.
        """
        before, after = self._before, self._after
        end = text.rfind(self._between)
        if end < 0 or not text.startswith(before) or _ends_first(text):
            return None
        bare = text[len(before) : end].split(self._between)
        choices = self._choices(bare)
        ends = [
            one.finish_reason != NULL
            or one.finish_reason is ABSENT
            or (one.logprobs is ABSENT and self._logprobs)
            for one in choices
        ]
        count = ends.index(True) if True in ends else len(ends)
        if not count:
            return None
        blank = self._blank
        kept = [choice for choice in choices[:count] if blank(choice)]
        cut = _encode_lines(kept)[:-1].replace(b"\n", self._between)
        length = sum(map(len, bare[:count])) + count * len(self._between)
        return (before + cut + after if kept else b""), length

    def _choices(self, bare: list[bytes]) -> Sequence[Choice | _SortedChoice]:
        """Decode `bare`; empty if it is uncertain that each is one choice with keys in order."""
        array = b"[%b]" % b",".join(bare)
        if not _is_one_line(array):
            return ()
        try:
            choices = self._order.many(array)
        except NOT_JSON:
            return ()
        # Compare line by line: in the comma-joined array a choice may span two items of `bare`.
        return choices if _encode_lines(choices) == b"\n".join([*bare, b""]) else ()

    def _blank(self, choice: Choice | _SortedChoice) -> bool:
        """Set injected fields to null; return whether anything is left to send."""
        if self._drop_empty and choice.delta == _EMPTY_OBJECT and self._has_injected(choice):
            return False
        if self._ids:
            if choice.token_ids is not ABSENT:
                choice.token_ids = NULL
            if choice.prompt_token_ids is not ABSENT:
                choice.prompt_token_ids = NULL
        if self._logprobs and choice.logprobs is not ABSENT:
            choice.logprobs = NULL
        return True

    def _has_injected(self, choice: Choice | _SortedChoice) -> bool:
        ids = choice.token_ids != NULL or choice.prompt_token_ids != NULL
        return (self._ids and ids) or (self._logprobs and choice.logprobs != NULL)


class PassThroughFrame(Frame):
    """Frame of events with nothing to strip; only the event that finishes a choice is searched for.

    Quotation marks inside a JSON string are escaped, so the search matches only the key that gives
    the finish reason of a choice.
    """

    __slots__ = ()

    def cut(self, functions: Functions, *, through: bool = True) -> Cut | None:
        return super().cut(functions, through=through)

    def strip_one(self, raw: bytes) -> bytes | None:
        if raw.find(_FINISHES) >= 0:
            return None  # nearly always the end of the choice
        one = raw.find(b"\n") == len(raw) - 2
        return raw if one and self._goes_on(raw) else super().strip_one(raw)

    def strip_run(self, text: bytes) -> tuple[bytes, int] | None:
        length = text.rfind(b"\n\n") + 2
        run = text[:length]
        seams = run.count(b"\n\n") - 1
        if seams >= 0 and run.count(self._between) == seams and self._goes_on(run):
            return run, length
        return super().strip_run(text)

    def _goes_on(self, text: bytes) -> bool:
        """Whether `text` is one or more events of this frame, none of which finishes its choice."""
        return (
            text.startswith(self._before)
            and text.endswith(self._after)
            and text.find(_FINISHES) < 0
            and text.find(b'"finish_reason":null') >= 0
            and text.find(b"\r") < 0
        )


def _ends_first(text: bytes) -> bool:
    """Whether the first event of `text` seems to finish its choice, so that none is stripped."""
    return text.find(_FINISHES, 0, text.find(b"\n\n")) >= 0


def _is_one_line(text: bytes) -> bool:
    """Whether `text` has no line end. `in` costs five times as much: it first tests for an int."""
    return text.find(b"\n") < 0 and text.find(b"\r") < 0


def frame_of(
    answer: AnswerText, blank: Collection[str], unasked: Unasked, *, drop_empty: bool
) -> Frame | AnyFrame | None:
    """Return the frame around the one choice of `answer`; None if its form is unusual."""
    [(start, end)] = answer.spans
    if any(unasked.state):
        return _any_frame(answer, blank, unasked, drop_empty=drop_empty)
    text, choice = answer.text, answer.text[start:end]
    for order in _ORDERS:
        try:
            if _encode(order.one(choice)) == choice:
                return frame_around(text[:start], text[end:], blank, order, drop_empty=drop_empty)
        except NOT_JSON:
            pass
    return _any_frame(answer, blank, unasked, drop_empty=drop_empty)


def frame_around(
    before: bytes,
    after: bytes,
    blank: Collection[str],
    order: _Order = _ORDERS[0],
    *,
    drop_empty: bool,
) -> Frame:
    """Return the frame of events that have `before` and `after` around their choice."""
    before, after = b"data: " + before, after + b"\n\n"
    if not blank:
        return PassThroughFrame(before, after, order, (), drop_empty=False)
    return Frame(before, after, order, blank, drop_empty=drop_empty)


def _any_frame(
    answer: AnswerText, blank: Collection[str], unasked: Unasked, *, drop_empty: bool
) -> AnyFrame | None:
    return any_frame_of(
        answer.text,
        answer.spans[0],
        blank,
        drop_empty=drop_empty,
        omits_null=unasked.omits_null,
        no_logprobs=unasked.no_logprobs,
    )


_BEGINNINGS: Mapping[bytes, msgspec.json.Decoder[_Answer] | msgspec.json.Decoder[_SortedAnswer]] = {
    b'{"id":': msgspec.json.Decoder(_Answer),
    b'{"choi': msgspec.json.Decoder(_SortedAnswer),
}


def strip_response(
    body: bytes, in_answer: Collection[str], in_choice: Collection[str]
) -> bytes | None:
    """Return a plain response with nulls for the given fields of its own and of its choices.

    None if its key order is unknown, so that an exact result is not certain.
    """
    decoder = _BEGINNINGS.get(body[:6])
    if decoder is None:
        return None
    try:
        answer = decoder.decode(body)
    except NOT_JSON:
        return None
    found: list[tuple[Exact, str]] = [
        (answer, field) for field in in_answer if getattr(answer, field) != NULL
    ]
    found += [
        (choice, field)
        for choice in answer.choices
        for field in in_choice
        if getattr(choice, field) != NULL
    ]
    if not found:
        return body
    if _encode(answer) != body:
        return None
    for part, field in found:
        setattr(part, field, NULL)
    return _encode(answer)
