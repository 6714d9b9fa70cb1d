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

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache

from gateway.wire.stripping.answer_text import AnswerText
from gateway.wire.stripping.any_frame import is_appended
from gateway.wire.stripping.json_text import NULL, Edit, Member, members_within, removals
from gateway.wire.stripping.sglang import is_sglang, only_if_asked, without_logprobs

OTHER_HOME = b"provider_specific_fields"
"""Where LiteLLM puts the fields of a choice that OpenAI's API does not have."""


class Unasked:
    """Takes fields out of the responses of one call, as its engine leaves them out if not asked.

    `in_answer` and `in_choice` are the keys to take out of a response and of its choices;
    `in_sglext` and `kept` are those of SGLang to take out of `sglext`, and to leave in its choices.
    `streams` is False for a plain response. `omitted`: events lack the keys `in_answer` unless
    requested. `omits_null` and `no_logprobs`: the stream has shown that its engine writes no nulls,
    or no `logprobs` unless requested. `lost_sglext`: the latest response had an `sglext` that is
    taken out whole.
    """

    __slots__ = (
        "_ids",
        "_in_answer",
        "_in_choice",
        "_in_sglext",
        "_kept",
        "_omitted",
        "_streams",
        "lost_sglext",
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
        in_sglext: Collection[str] = (),
        kept: Collection[str] = (),
    ) -> None:
        self._in_answer = _encoded(tuple(in_answer))
        self._in_choice = _encoded(tuple(in_choice))
        self._in_sglext = _encoded(tuple(in_sglext))
        self._kept = _encoded(tuple(kept))
        self._ids = b"token_ids" in self._in_choice
        self._streams = streams
        self._omitted = omitted
        self.omits_null = self.no_logprobs = self.lost_sglext = False

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
        whole, edits = only_if_asked(answer, self._in_sglext)
        self.lost_sglext = bool(whole)
        elsewhere = not self._streams and any(map(_has_other_home, answer.choices))
        if self.omits_null or self._omitted or elsewhere:
            return edits + removals(answer.top, told + whole)
        edits += removals(answer.top, whole)
        return edits + [Edit(one.value, one.end, NULL) for one in told]

    def _of_choice(self, answer: AnswerText, choice: list[Member]) -> Iterator[Edit]:
        sglang = is_sglang(choice)
        names = self._in_choice - self._kept if sglang else self._in_choice
        told = [one for one in choice if self._tells(answer, one, names)]
        doomed = [one for one in told if self._omits(choice, one)]
        yield from removals(choice, doomed)
        for one in told:
            if one not in doomed:
                yield Edit(one.value, one.end, NULL)
        if sglang and b"logprobs" in names:
            yield from without_logprobs(answer.text, choice)
        if self._ids:
            for one in choice:
                if one.key == OTHER_HOME and answer.text[one.value] == ord("{"):
                    yield from self._of_other_home(answer, one)

    def _of_other_home(self, answer: AnswerText, home: Member) -> list[Edit]:
        found = members_within(answer.text, home)
        told = [one for one in found if self._tells(answer, one, self._in_choice)]
        if self.omits_null:
            return removals(found, told)
        return [Edit(one.value, one.end, NULL) for one in told]

    def _tells(self, answer: AnswerText, one: Member, names: frozenset[bytes]) -> bool:
        return one.key in names and answer.value(one) != NULL

    def _omits(self, choice: list[Member], one: Member) -> bool:
        if one.key == b"logprobs" and (self.no_logprobs or _is_appended(choice)):
            return True
        if one.key in _IDS and is_sglang(choice):
            return True
        return self.omits_null if self._streams else one.key in _IDS and _has_other_home(choice)


@lru_cache(maxsize=32)  # as each call of one kind has the same ones
def _encoded(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.encode() for name in names)


_IDS = frozenset((b"token_ids", b"prompt_token_ids", b"response_token_ids"))


def _has_other_home(choice: Sequence[Member]) -> bool:
    return any(one.key == OTHER_HOME for one in choice)


def _lacks_finish_reason(choice: Sequence[Member]) -> bool:
    return all(one.key != b"finish_reason" for one in choice)


def _lacks_logprobs(choice: Sequence[Member]) -> bool:
    return all(one.key != b"logprobs" for one in choice)


def _is_appended(choice: Sequence[Member]) -> bool:
    return is_appended([one.key.decode(errors="replace") for one in choice])
