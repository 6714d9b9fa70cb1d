"""What an engine sends in place of a field that nobody requested: null, or nothing.

Engines differ, and one engine differs between its APIs. vLLM, SGLang and OpenAI write null.
llama.cpp writes `logprobs: null` in completions and no such key in chat; LiteLLM writes null in
plain completions, and in chat only within `provider_specific_fields`. An answer that has the field
tells which it is:

- An event whose unfinished choice has no `finish_reason` comes from an engine that omits nulls.
- If one event of a stream has a choice without `logprobs`, others lack it too if not requested.
- `logprobs` after both the message and the `finish_reason` was appended because it was requested.
  Engines that sort their keys are told by that.
- A choice with `matched_stop` and without `stop_reason` comes from SGLang, which writes no
  `token_ids` unless asked, though it writes `logprobs: null`.
- A plain choice with `provider_specific_fields` has its token ids in there, and the answer has no
  `prompt_token_ids` of its own.

The tests hold that this is right for each engine with recorded responses.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from gateway.wire.stripping.any_frame import is_appended
from gateway.wire.stripping.json_text import (
    NULL,
    Edit,
    Malformed,
    Member,
    is_rest,
    members,
    objects,
    quick_members,
    quick_objects,
    removals,
    start_of_object,
)

OTHER_HOME = b"provider_specific_fields"
"""Where LiteLLM puts the fields of a choice that OpenAI's API does not have."""

_UNFINISHED = frozenset((b'""', b'"null"'))
_SILENT = frozenset((NULL, b"{}", b'""', b"[]"))
_CONTENT = frozenset((b"delta", b"text"))


_Choice = tuple[int, int, list[Member]]


class AnswerText(msgspec.Struct, gc=False):
    """A response or an event as text: its members, and those of each choice with its span."""

    text: bytes
    top: list[Member]
    choices: list[list[Member]]
    spans: list[tuple[int, int]]

    def value(self, member: Member) -> bytes:
        return self.text[member.value : member.end]

    def of(self, found: Sequence[Member], name: bytes) -> bytes:
        """Return the value of one of `found`; NULL if it is absent, the last if there are more."""
        value = NULL
        for member in found:
            if member.key == name:
                value = self.value(member)
        return value

    def is_finished(self, choice: Sequence[Member]) -> bool:
        """Whether the choice ends here; some engines send "" or "null" while it goes on."""
        reason = self.of(choice, b"finish_reason")
        return reason.startswith(b'"') and reason not in _UNFINISHED

    def is_silent(self, choice: Sequence[Member]) -> bool:
        """Whether the choice has neither content nor an end."""
        return not self.is_finished(choice) and all(
            self.value(one) in _SILENT or (one.key == b"delta" and self._says_nothing(one))
            for one in choice
            if one.key in _CONTENT
        )

    def _says_nothing(self, delta: Member) -> bool:
        try:
            said, _ = members(self.text, delta.value)
        except Malformed:
            return False
        return all(one.key == b"role" or self.value(one) in _SILENT for one in said)


def read_text(text: bytes) -> AnswerText | None:
    """Find the members of a response; None if `text` is not an object and nothing else."""
    quick = _read_quickly(text)
    if quick is not None:
        return quick
    try:
        top, end = members(text, start_of_object(text))
        choices = [
            choice for at in _lists_of_choices(text, top) for choice in objects(text, at.value)
        ]
    except Malformed:
        return None
    return _answer(text, top, choices) if is_rest(text, end) else None


def _read_quickly(text: bytes) -> AnswerText | None:
    """Find the members of a response that is JSON in every respect; else None."""
    top = quick_members(text, 0, len(text))
    if top is None:
        return None
    choices: list[_Choice] = []
    for one in _lists_of_choices(text, top):
        found = quick_objects(text, one.value, one.end)
        if found is None:
            return None
        choices += found
    return _answer(text, top, choices)


def _lists_of_choices(text: bytes, top: Sequence[Member]) -> list[Member]:
    return [one for one in top if one.key == b"choices" and text[one.value] == ord("[")]


def _answer(text: bytes, top: list[Member], choices: Sequence[_Choice]) -> AnswerText:
    spans = [(at, end) for at, end, _ in choices]
    return AnswerText(text, top, [found for *_, found in choices], spans)


class Unasked:
    """Takes fields out of the responses of one call, as its engine leaves them out if not asked.

    `in_answer` and `in_choice` are the keys to take out of a response and of its choices. `streams`
    is False for a plain response. `omitted`: events lack the keys `in_answer` unless requested.
    `omits_null` and `no_logprobs`: the stream has shown that its
    engine writes no nulls, or no `logprobs` unless requested.
    """

    __slots__ = (
        "_ids",
        "_in_answer",
        "_in_choice",
        "_omitted",
        "_streams",
        "no_logprobs",
        "omits_null",
    )

    def __init__(
        self,
        in_answer: Sequence[str],
        in_choice: Sequence[str],
        *,
        streams: bool,
        omitted: bool = False,
    ) -> None:
        self._in_answer = _encoded(tuple(in_answer))
        self._in_choice = _encoded(tuple(in_choice))
        self._ids = b"token_ids" in self._in_choice
        self._streams = streams
        self._omitted = omitted
        self.omits_null = self.no_logprobs = False

    @property
    def state(self) -> tuple[bool, bool]:
        """What the stream has shown of its engine so far."""
        return self.omits_null, self.no_logprobs

    def has_frame(self, answer: AnswerText) -> bool:
        """Whether only the choices of such an event have to change."""
        return not self._of_answer(answer)

    def edits(self, answer: AnswerText) -> list[Edit]:
        """Return the edits that take the fields out; none if the response has none of them."""
        if self._streams and self._in_choice:
            self.omits_null = self.omits_null or any(map(_lacks_finish_reason, answer.choices))
        found = [edit for choice in answer.choices for edit in self._of_choice(answer, choice)]
        found += self._of_answer(answer)
        if self._streams and b"logprobs" in self._in_choice:
            self.no_logprobs = self.no_logprobs or any(map(_lacks_logprobs, answer.choices))
        return found

    def _of_answer(self, answer: AnswerText) -> list[Edit]:
        told = [one for one in answer.top if self._tells(answer, one, self._in_answer)]
        elsewhere = not self._streams and any(map(_has_other_home, answer.choices))
        if self.omits_null or self._omitted or elsewhere:
            return removals(answer.top, told)
        return [Edit(one.value, one.end, NULL) for one in told]

    def _of_choice(self, answer: AnswerText, choice: list[Member]) -> Iterator[Edit]:
        told = [one for one in choice if self._tells(answer, one, self._in_choice)]
        doomed = [one for one in told if self._omits(choice, one)]
        yield from removals(choice, doomed)
        for one in told:
            if one not in doomed:
                yield Edit(one.value, one.end, NULL)
        if self._ids:
            for one in choice:
                if one.key == OTHER_HOME and answer.text[one.value] == ord("{"):
                    yield from self._of_other_home(answer, one)

    def _of_other_home(self, answer: AnswerText, home: Member) -> list[Edit]:
        found, _ = members(answer.text, home.value)
        told = [one for one in found if self._tells(answer, one, self._in_choice)]
        if self.omits_null:
            return removals(found, told)
        return [Edit(one.value, one.end, NULL) for one in told]

    def _tells(self, answer: AnswerText, one: Member, names: frozenset[bytes]) -> bool:
        return one.key in names and answer.value(one) != NULL

    def _omits(self, choice: list[Member], one: Member) -> bool:
        if one.key == b"logprobs" and (self.no_logprobs or _is_appended(choice)):
            return True
        if one.key in _IDS and _is_sglang(choice):
            return True
        return self.omits_null if self._streams else one.key in _IDS and _has_other_home(choice)


@lru_cache(maxsize=32)  # as each call of one kind has the same ones
def _encoded(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names)


_IDS = frozenset((b"token_ids", b"prompt_token_ids"))


def _has_other_home(choice: Sequence[Member]) -> bool:
    return any(one.key == OTHER_HOME for one in choice)


def _is_sglang(choice: Sequence[Member]) -> bool:
    keys = [one.key for one in choice]
    return b"matched_stop" in keys and b"stop_reason" not in keys


def _lacks_finish_reason(choice: Sequence[Member]) -> bool:
    return all(one.key != b"finish_reason" for one in choice)


def _lacks_logprobs(choice: Sequence[Member]) -> bool:
    return all(one.key != b"logprobs" for one in choice)


def _is_appended(choice: Sequence[Member]) -> bool:
    return is_appended([one.key.decode(errors="replace") for one in choice])
