"""The scanner finds the members that a decoder finds, and edits nothing else."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.stripping.json_text import (
    Malformed,
    additions,
    edited,
    members,
    objects,
    quick_members,
    quick_objects,
    removals,
)

values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
)
dictionaries = st.dictionaries(st.text(max_size=3), values, max_size=5)
separators = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])
indents = st.sampled_from([None, 2])


@given(dictionaries, separators, indents, st.booleans())
def test_members_are_those_of_the_object(
    value: dict[str, object], between: tuple[str, str], indent: int | None, plain: bool
) -> None:
    text = json.dumps(value, separators=between, indent=indent, ensure_ascii=plain).encode()

    found, end = members(text)

    assert end == len(text)
    assert [one.key.decode(errors="replace") for one in found] == [
        key.encode(errors="replace").decode() for key in value
    ]
    for one, inner in zip(found, value.values(), strict=True):
        assert repr(json.loads(text[one.value : one.end])) == repr(inner)


@given(st.lists(dictionaries | values, max_size=4), separators, indents)
def test_objects_are_those_of_the_array(
    value: list[object], between: tuple[str, str], indent: int | None
) -> None:
    text = json.dumps(value, separators=between, indent=indent).encode()

    found = [json.loads(text[at:end]) for at, end, _ in objects(text, 0)]

    assert repr(found) == repr([one for one in value if isinstance(one, dict)])


@given(dictionaries, separators, indents, st.booleans(), st.sampled_from(["", " ", "}", "\0", ","]))
def test_quick_ways_find_the_same_or_nothing(
    value: dict[str, object], between: tuple[str, str], indent: int | None, plain: bool, end: str
) -> None:
    written = json.dumps(value, separators=between, indent=indent, ensure_ascii=plain)
    text = f" {written}{end}".encode()
    array = f"[{written} , 1,{written}]".encode()

    for found in (quick_members(text, 1, len(text)), quick_members(text, 1, len(text) - 1)):
        assert found is None or found == members(text, 1)[0]
    assert quick_objects(array, 0, len(array)) in (None, list(objects(array, 0)))


def test_quick_ways_are_ways_through_usual_objects() -> None:
    text = b'{"a":{"b":[1,"}"]}, "c" : null}'

    assert quick_members(text, 0, len(text)) == members(text, 0)[0]
    assert quick_members(b'{"a":1,"a":1}', 0, 13) is None
    assert quick_members(b'{"a":NaN}', 0, 9) is None
    assert quick_members(b"{}", 0, 2) == []


@given(dictionaries, st.sets(st.integers(0, 4)), separators)
def test_removals_leave_the_object_without_the_members(
    value: dict[str, object], gone: set[int], between: tuple[str, str]
) -> None:
    text = json.dumps(value, separators=between).encode()
    found, _ = members(text)
    doomed = [one for number, one in enumerate(found) if number in gone]
    kept = {key: v for number, (key, v) in enumerate(value.items()) if number not in gone}

    left = edited(text, removals(found, doomed))

    assert left == json.dumps(kept, separators=between).encode()


@given(dictionaries.filter(bool), separators)
def test_additions_are_spaced_as_the_object_is(
    value: dict[str, object], between: tuple[str, str]
) -> None:
    value = {"first": 1, "second": 2, **value}
    text = json.dumps(value, separators=between).encode()

    longer = edited(text, [additions(text, members(text)[0], [(b"third", b"1e-05")])])

    whole = json.dumps({**value, "third": 0.25}, separators=between)
    assert longer == b"1e-05".join(whole.encode().rsplit(b"0.25", 1))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,}', b'{"a":[}', b'{"a":"}']
)
def test_text_without_an_object_is_malformed(text: bytes) -> None:
    with pytest.raises(Malformed):
        members(text)


def test_string_without_an_end_takes_no_quadratic_time() -> None:
    text = b'{"a":["' + b'\\"' * 200_000
    began = time.process_time()

    with pytest.raises(Malformed):
        members(text)

    assert time.process_time() - began < 1
