"""A response or an event as text: its members and those of its choices, found where they stand."""

from collections.abc import Container, Sequence

import msgspec

from gateway.wire.stripping.json_text import (
    NULL,
    Edit,
    Malformed,
    Member,
    additions,
    edited,
    is_rest,
    members,
    objects,
    on_one_line,
    quick_members,
    quick_objects,
    start_of_object,
)

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


def indices(answer: AnswerText) -> set[bytes]:
    """Return the indices of the choices, as text."""
    return {answer.of(choice, b"index") for choice in answer.choices}


def is_empty(answer: AnswerText, says_nothing: Container[bytes]) -> bool:
    """Whether all choices go on, and have one of the deltas `says_nothing`."""
    return all(
        answer.of(choice, b"delta") in says_nothing and not answer.is_finished(choice)
        for choice in answer.choices
    )


def with_more(text: bytes, more: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the event `text` with those of `more` that it lacks, at its end, in as many lines."""
    answer = read_text(text)
    if answer is None or not more:
        return text
    fresh = [(key, value) for key, value in more if answer.of(answer.top, key) == NULL]
    there = {one.key: one for one in answer.top}
    edits = [Edit(there[key].value, there[key].end, v) for key, v in fresh if key in there]
    new = [(key, value) for key, value in fresh if key not in there]
    if new:
        edits.append(additions(text, answer.top, new))
    return edited(text, [Edit(one.start, one.end, on_one_line(one.new)) for one in edits])
