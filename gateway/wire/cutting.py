"""Takes injected fields out of answers and events in one pass, where that is surely exact.

`injection.Stripper` reads anything, and reads it twice. But the events of a stream mostly differ
in their one choice alone: what stands before and after it, its Frame, stays the same. Where an
event has the frame of one that was read in full, only the choice is read, into a Struct that holds
each value as its own bytes and knows the keys that engines send, in an order in which they send
them. That the choice has these keys, all of them once and in that order, is certain when writing
the Struct gives the same bytes; then it may be written with nulls. Else the Stripper reads on. A
plain answer is read in the same way, as a whole.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
from msgspec import Raw

# `omit_defaults` goes by identity: what was absent is not written, and a null that came is.
_ABSENT = Raw(b"null")
_NULL = Raw(b"null")
_EMPTY_OBJECT = Raw(b"{}")
_PLACE = b"[\0]"  # no JSON has this byte

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


class _Exact(
    msgspec.Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """Written without the keys that it was read without."""


class _Choice(_Exact):
    """Of an event, as vLLM, SGLang and OpenAI order it."""

    index: Raw = _ABSENT
    delta: Raw = _ABSENT
    text: Raw = _ABSENT
    logprobs: Raw = _ABSENT
    finish_reason: Raw = _ABSENT
    stop_reason: Raw = _ABSENT
    matched_stop: Raw = _ABSENT
    prompt_token_ids: Raw = _ABSENT
    token_ids: Raw = _ABSENT


class _SortedChoice(_Exact):
    """Of an event or an answer, as engines order it that sort all keys."""

    delta: Raw = _ABSENT
    finish_reason: Raw = _ABSENT
    index: Raw = _ABSENT
    logprobs: Raw = _ABSENT
    message: Raw = _ABSENT
    prompt_token_ids: Raw = _ABSENT
    stop_reason: Raw = _ABSENT
    text: Raw = _ABSENT
    token_ids: Raw = _ABSENT


class _WholeChoice(_Exact):
    """Of a plain answer."""

    index: Raw = _ABSENT
    message: Raw = _ABSENT
    text: Raw = _ABSENT
    logprobs: Raw = _ABSENT
    finish_reason: Raw = _ABSENT
    stop_reason: Raw = _ABSENT
    matched_stop: Raw = _ABSENT
    token_ids: Raw = _ABSENT
    prompt_logprobs: Raw = _ABSENT
    prompt_token_ids: Raw = _ABSENT
    routed_experts: Raw = _ABSENT


class _Answer(_Exact):
    id: Raw = _ABSENT
    object: Raw = _ABSENT
    created: Raw = _ABSENT
    model: Raw = _ABSENT
    choices: list[_WholeChoice] = []
    service_tier: Raw = _ABSENT
    system_fingerprint: Raw = _ABSENT
    usage: Raw = _ABSENT
    prompt_logprobs: Raw = _ABSENT
    prompt_token_ids: Raw = _ABSENT
    prompt_text: Raw = _ABSENT
    kv_transfer_params: Raw = _ABSENT
    ec_transfer_params: Raw = _ABSENT
    metrics: Raw = _ABSENT
    metadata: Raw = _ABSENT


class _SortedAnswer(_Exact):
    choices: list[_SortedChoice] = []
    created: Raw = _ABSENT
    id: Raw = _ABSENT
    model: Raw = _ABSENT
    object: Raw = _ABSENT
    prompt_token_ids: Raw = _ABSENT
    system_fingerprint: Raw = _ABSENT
    usage: Raw = _ABSENT


class _Order(msgspec.Struct, frozen=True):
    """Reads choices whose keys come in one order: one choice, or a list of them."""

    one: Callable[[bytes], _Choice | _SortedChoice]
    many: Callable[[bytes], list[_Choice] | list[_SortedChoice]]


_ORDERS = (
    _Order(msgspec.json.Decoder(_Choice).decode, msgspec.json.Decoder(list[_Choice]).decode),
    _Order(
        msgspec.json.Decoder(_SortedChoice).decode,
        msgspec.json.Decoder(list[_SortedChoice]).decode,
    ),
)


class Frame:
    """What stands around the choice of one event, and the order of the choice's keys.

    `blank`: the fields of a choice that are set to null. `drop_empty`: an event that had nothing
    else is dropped.
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

    def cut(self, raw: bytes) -> bytes | None:
        """The event `raw` with nulls for what was injected, b"" where it is dropped.

        None: it is of another frame or order, the last of its choice, or not a single event.
        """
        before, after = self._before, self._after
        if not (raw.startswith(before) and raw.endswith(after)):
            return None
        bare = raw[len(before) : -len(after)]
        if not _is_one_line(bare):
            return None
        try:
            choice = self._order.one(bare)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if choice.finish_reason != _NULL or _encode(choice) != bare:
            return None
        return before + _encode(choice) + after if self._blank(choice) else b""

    def cut_run(self, text: bytes) -> tuple[bytes, int] | None:
        """The same for the events that `text` begins with, and how many bytes of it they are.

        Up to the first that finishes its choice, and without the last of the frame, which may not
        be the whole of an event. None: there are none, or one would have to be read in full.
        """
        before, after = self._before, self._after
        end = text.rfind(self._between)
        if end < 0 or not text.startswith(before):
            return None
        bare = text[len(before) : end].split(self._between)
        choices = self._choices(bare)
        ends = [one.finish_reason != _NULL for one in choices]
        count = ends.index(True) if True in ends else len(ends)
        if not count:
            return None
        blank = self._blank
        kept = [choice for choice in choices[:count] if blank(choice)]
        cut = _encode_lines(kept)[:-1].replace(b"\n", self._between)
        length = sum(map(len, bare[:count])) + count * len(self._between)
        return (before + cut + after if kept else b""), length

    def _choices(self, bare: list[bytes]) -> Sequence[_Choice | _SortedChoice]:
        """Empty where it is not certain that each of `bare` is one choice, its keys in order."""
        array = b"[%b]" % b",".join(bare)
        if not _is_one_line(array):
            return ()
        try:
            choices = self._order.many(array)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ()
        # Line by line: with commas alone, what is one choice might be another one's half.
        return choices if _encode_lines(choices) == b"\n".join([*bare, b""]) else ()

    def _blank(self, choice: _Choice | _SortedChoice) -> bool:
        """Set to null what was injected; whether there is anything left to send."""
        if self._drop_empty and choice.delta == _EMPTY_OBJECT and self._has_injected(choice):
            return False
        if self._ids:
            if choice.token_ids is not _ABSENT:
                choice.token_ids = _NULL
            if choice.prompt_token_ids is not _ABSENT:
                choice.prompt_token_ids = _NULL
        if self._logprobs and choice.logprobs is not _ABSENT:
            choice.logprobs = _NULL
        return True

    def _has_injected(self, choice: _Choice | _SortedChoice) -> bool:
        ids = choice.token_ids != _NULL or choice.prompt_token_ids != _NULL
        return (self._ids and ids) or (self._logprobs and choice.logprobs != _NULL)


class OpenFrame(Frame):
    """One with nothing to take out of its choices: only their last events are looked for.

    No string of JSON has a quotation mark that is not escaped, so what is looked for is nowhere but
    where a choice says how it ends.
    """

    __slots__ = ()

    def cut(self, raw: bytes) -> bytes | None:
        one = raw.find(b"\n") == len(raw) - 2
        return raw if one and self._goes_on(raw) else super().cut(raw)

    def cut_run(self, text: bytes) -> tuple[bytes, int] | None:
        length = text.rfind(b"\n\n") + 2
        run = text[:length]
        seams = run.count(b"\n\n") - 1
        if seams >= 0 and run.count(self._between) == seams and self._goes_on(run):
            return run, length
        return super().cut_run(text)

    def _goes_on(self, text: bytes) -> bool:
        """Whether no choice ends in it: events of this frame, one or more."""
        return (
            text.startswith(self._before)
            and text.endswith(self._after)
            and text.find(b'"finish_reason":"') < 0
            and text.find(b'"finish_reason":null') >= 0
            and text.find(b"\r") < 0
        )


def _is_one_line(text: bytes) -> bool:
    """`in` would cost five times as much: it looks first whether it was given a number."""
    return text.find(b"\n") < 0 and text.find(b"\r") < 0


def frame_of(
    answer: Mapping[str, Raw], blank: Collection[str], *, drop_empty: bool
) -> Frame | None:
    """The frame around the choice of `answer`, which has one; None for an unforeseen order."""
    choice = bytes(answer["choices"])[1:-1]
    written = _encode({**answer, "choices": Raw(_PLACE)})
    before, _, after = (b"data: %b\n\n" % written).partition(_PLACE)
    before, after = before + b"[", b"]" + after
    for order in _ORDERS:
        try:
            if _encode(order.one(choice)) == choice:
                if not blank:
                    return OpenFrame(before, after, order, (), drop_empty=False)
                return Frame(before, after, order, blank, drop_empty=drop_empty)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return None


_BEGINNINGS: Mapping[bytes, msgspec.json.Decoder[_Answer] | msgspec.json.Decoder[_SortedAnswer]] = {
    b'{"id":': msgspec.json.Decoder(_Answer),
    b'{"choi': msgspec.json.Decoder(_SortedAnswer),
}


def cut_answer(body: bytes, in_answer: Collection[str], in_choice: Collection[str]) -> bytes | None:
    """A plain answer with nulls for those fields of it and of its choices; None: not certain."""
    decoder = _BEGINNINGS.get(body[:6])
    if decoder is None:
        return None
    try:
        answer = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found: list[tuple[_Exact, str]] = [
        (answer, field) for field in in_answer if getattr(answer, field) != _NULL
    ]
    found += [
        (choice, field)
        for choice in answer.choices
        for field in in_choice
        if getattr(choice, field) != _NULL
    ]
    if not found:
        return body
    if _encode(answer) != body:
        return None
    for part, field in found:
        setattr(part, field, _NULL)
    return _encode(answer)
