"""What follows a sampled turn: for templates of many kinds, exactly what they write, or nothing."""

from collections.abc import Sequence

import msgspec
from gateway_plugins.trace_capture.tito.suffix import (
    STAND_INS,
    End,
    Ended,
    common_suffix,
    stand_in,
    suffix_of,
)
from hypothesis import given
from hypothesis import strategies as st

OPEN, END, LINE, THINK, CALL = 1, 2, 3, 4, 5

ONE, OTHER = (100 + int(text) for text in STAND_INS)

texts = st.lists(st.integers(10, 60), max_size=6)


class Template(msgspec.Struct, frozen=True):
    """Ids of a chat template: `close` ends a turn, `opens` begins the answer.

    `thinks`: it writes empty thoughts into the assistant's last turn, and into no other. `calls`:
    what it writes after the text of a turn that calls a tool.
    """

    close: list[int]
    opens: list[int]
    thinks: bool = False
    calls: list[int] = []

    def render(self, turns: Sequence[list[int]], *, opened: bool, called: int = -1) -> list[int]:
        """Return the ids of turns, the first of the user; `called` is a turn that calls."""
        ids: list[int] = []
        for place, text in enumerate(turns):
            thoughts = self.thinks and place % 2 and place >= len(turns) - 1
            ids += [OPEN, 200 + place % 2, *([THINK] if thoughts else []), *text]
            ids += [*(self.calls if place == called else []), *self.close]
        return [*ids, OPEN, 201, *self.opens] if opened else ids


closes = st.lists(st.sampled_from([LINE, 6, 7]), max_size=2).map(lambda rest: [END, *rest])
templates = st.builds(
    Template,
    close=closes,
    opens=st.lists(st.integers(20, 25), max_size=2),
    thinks=st.booleans(),
    calls=texts.map(lambda ids: [CALL, *ids]),
)


def cut(template: Template, turns: list[list[int]], place: int, end: End) -> list[int] | None:
    """Return the suffix after the turn at `place`, as it is found with the stand-ins."""
    called = place if end.calls else -1

    def rendered(stands: int) -> list[int]:
        changed = [*turns[:place], [stands], *turns[place + 1 :]]
        return template.render(changed, opened=True, called=called)

    closes = [
        template.render([[30], [stands]], opened=False, called=1 if end.calls else -1)
        for stands in (ONE, OTHER)
    ]
    close = common_suffix(closes[0], closes[1])
    return suffix_of(end, close, rendered(ONE), rendered(OTHER))


def after(template: Template, turns: list[list[int]], place: int) -> list[int]:
    """Return what the template writes after the text of the turn at `place`."""
    whole = template.render(turns, opened=True)
    before = Template(template.close, template.opens, False).render(turns[:place], opened=False)
    thoughts = template.thinks and place == len(turns) - 1
    return whole[len(before) + 2 + thoughts + len(turns[place]) :]


conversations = st.lists(texts, min_size=2, max_size=7)


@given(templates, conversations, st.sampled_from(["by itself", "by a token", "cut"]), st.data())
def test_the_suffix_is_what_the_template_writes(
    template: Template, turns: list[list[int]], ended: Ended, data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(range(1, len(turns), 2)))
    by_end = data.draw(st.booleans()) or ended == "by itself"
    last = END if by_end and ended != "cut" else 40
    rest = cut(template, turns, place, End(last, ended))
    expected = after(template, turns, place)
    assert rest == (expected[1:] if last == END else expected)


@given(templates, conversations)
def test_a_turn_with_a_tool_call_ends_at_its_own_end(
    template: Template, turns: list[list[int]]
) -> None:
    rest = cut(template, turns, 1, End(END, "by itself", calls=True))
    assert rest == after(template, turns, 1)[1:]
    assert cut(template, turns, 1, End(40, "cut", calls=True)) is None


@given(templates, conversations)
def test_an_end_that_the_template_does_not_write_is_not_guessed(
    template: Template, turns: list[list[int]]
) -> None:
    assert cut(template, turns, 1, End(99, "by itself")) is None


@given(conversations)
def test_a_template_without_an_end_is_not_guessed(turns: list[list[int]]) -> None:
    bare = Template([], [20])
    assert cut(bare, turns, 1, End(END, "by itself")) is None
    assert cut(bare, turns, 1, End(40, "cut")) is None


@given(texts, st.integers(0, 3))
def test_a_template_that_ignores_the_turn_is_not_guessed(ids: list[int], more: int) -> None:
    same = [*ids, END, *[LINE] * more]
    assert suffix_of(End(END, "by itself"), [END], same, same) is None


def test_a_stand_in_keeps_what_results_of_tools_refer_to() -> None:
    call = {"id": "call_7", "function": {"name": "look", "arguments": '{"at": 1}'}}
    made = stand_in("1", {"role": "assistant", "content": "So", "tool_calls": [call, "odd"]})
    assert [one["id"] for one in made["tool_calls"]] == ["call_7", "call_1"]
    assert made["content"] == made["tool_calls"][0]["function"]["name"] == "1"
    assert "tool_calls" not in stand_in("2", {"role": "assistant", "content": "So"})
