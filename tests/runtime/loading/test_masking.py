"""Secrets are masked wherever the pieces of a stream are cut."""

import itertools

import pytest
from gateway_plugins.runtime.loading.lines import LONGEST, Lines
from gateway_plugins.runtime.loading.masking import MASK, Masker
from hypothesis import given
from hypothesis import strategies as st

SECRETS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)
PIECES = st.lists(st.text("abcd\n", max_size=8))


def masked(secrets: list[str], pieces: list[str]) -> bytes:
    masker = Masker(secrets)
    return b"".join([*(masker.feed(one.encode()) for one in pieces), masker.end()])


@given(SECRETS, PIECES)
def test_no_secret_is_left_and_the_rest_stays(secrets: list[str], pieces: list[str]) -> None:
    result = masked(secrets, pieces)
    assert not any(one.encode() in result for one in secrets)
    if not any(one in "".join(pieces) for one in secrets):
        assert "".join(pieces).encode().startswith(result.removesuffix(MASK))
        assert secrets or result == "".join(pieces).encode()


@given(SECRETS, PIECES)
def test_the_cuts_make_no_difference(secrets: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces) + "d"
    assert masked(secrets, [*pieces, "d"]) == masked(secrets, [whole])


@pytest.mark.parametrize("cut", range(1, 12))
def test_fault_6_06_a_secret_in_two_pieces_is_masked(cut: int) -> None:
    text = "token=hf_12345 and\n"
    assert masked(["hf_12345"], [text[:cut], text[cut:]]) == b"token=*** and\n"


def test_the_longer_of_two_secrets_is_masked_as_a_whole() -> None:
    assert masked(["abc", "abcdef"], ["x abc", "def abc", "d!"]) == b"x *** ***d!"


def test_a_part_of_a_secret_at_the_end_is_masked() -> None:
    assert masked(["hf_12345"], ["token=hf_123"]) == b"token=***"


@given(st.text("ab\r\n\x1b[3m", max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_lines_are_the_same_however_they_are_cut(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    lines = Lines()
    fed = [
        line
        for begin, end in itertools.pairwise(places)
        for line in lines.feed(text[begin:end].encode())
    ]
    whole = Lines()
    assert [*fed, *lines.end()] == [*whole.feed(text.encode()), *whole.end()]


def test_lines_are_bounded_and_plain() -> None:
    lines = Lines()
    long = b"x" * (2 * LONGEST + 5)
    assert [len(one) for one in lines.feed(long)] == [LONGEST, LONGEST]
    assert lines.feed(b"\n\n10%\r20%\r\n\x1b[1;36mred\x1b[0m\xff \x07bell\ttab") == [
        *("x" * 5, "10%", "20%"),
    ]
    assert lines.end() == ["red\ufffd bell\ttab"]
    assert lines.end() == []
