"""Alternatives and experts, from every form in which engines send them."""

import base64
import struct
from typing import Any

import pytest
from gateway_plugins.trace_capture.exports.arrays import Array, experts_of, top_of
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.rollouts import npy

ANY = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
SIX = [1, 2, 3, 4, 5, 255]


def raw(numbers: list[int]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}i", *numbers)).decode()


@pytest.mark.parametrize(
    ("told", "shape"),
    [
        (npy((3, 2, 1), SIX), [3, 2, 1]),
        (npy((3, 2, 1), SIX, "B", "|u1"), [3, 2, 1]),
        (npy((3, 1, 2), SIX, "H", "<u2"), [3, 1, 2]),
        (npy((3, 1, 2), SIX, "q", "<i8"), [3, 1, 2]),
        (raw(SIX), [3, 2]),
        ([[[1, 2]], [[3, 4]], [[5, 255]]], [3, 1, 2]),
        ([[1, 2], [3, 4], [5, 255]], [3, 2]),
    ],
)
def test_experts_are_read_in_each_form(told: Any, shape: list[int]) -> None:
    found = experts_of(told, 4)
    assert found is not None
    assert (found.shape, found.numbers().tolist()) == (shape, SIX)


@pytest.mark.parametrize(
    "told",
    [
        None,
        5,
        [],
        "",
        "no base64!",
        raw(SIX[:5]),
        [[1, 2], [3]],
        [[[1]], [2]],
        ["aaa", "bbb"],
        [[[[1]]], [[[2]]], [[[3]]]],
        [[1 << 40, 2]],
        npy((4, 2), SIX),
        npy((3, 2), SIX).replace("A", "B", 1),
        npy((6,), SIX),
        npy((3, 2), SIX, kind="<f4"),
        base64.b64encode(b"\x93NUMPY").decode(),
        base64.b64encode(b"\x93NUMPY\x01\x00\x04\x00().x").decode(),
    ],
)
def test_experts_in_no_known_form_are_none(told: Any) -> None:
    assert experts_of(told, 4) is None


@given(ANY, st.integers(0, 5))
def test_experts_of_anything_do_not_raise(told: Any, tokens: int) -> None:
    found = experts_of(told, tokens)
    assert found is None or isinstance(found, Array)


@given(st.binary(max_size=80))
def test_experts_of_a_spoilt_npy_file_do_not_raise(data: bytes) -> None:
    experts_of(base64.b64encode(b"\x93NUMPY" + data).decode(), 4)


@given(st.lists(ANY, max_size=3))
def test_alternatives_of_anything_do_not_raise(told: list[Any]) -> None:
    top_of(told, [1] * len(told), None)


CHAT = [[{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}], []]
NAMED = [[{"token": "token_id:7", "logprob": -1.0}], [{"token_id": 8, "logprob": -2.0}]]


@pytest.mark.parametrize(
    ("told", "ids", "logprobs"),
    [
        (CHAT, [5, -1, -1, -1], [-1.0, -2.0, None, None]),
        (NAMED, [7, 8], [-1.0, -2.0]),
        ([{"token_id:7": -1.0, "b": -3.0}, None], [7, -1, -1, -1], [-1.0, -3.0, None, None]),
        ([{"a": -1.0}, {"b": -3.0}], [5, 6], [-1.0, -3.0]),
        ([[[-1.0, 5, None]], [[-3.0, 6, "b"]]], [5, 6], [-1.0, -3.0]),
    ],
    ids=["chat", "named by ids", "completions by ids", "completions", "SGLang"],
)
def test_alternatives_are_read_in_each_form(
    told: list[Any], ids: list[int], logprobs: list[float | None]
) -> None:
    top = top_of(told, [5, 6], ["a", "b"])
    assert top is not None
    assert top.ids.numbers().tolist() == ids
    found = [value if value == value else None for value in top.logprobs.numbers()]
    assert found == logprobs


def test_no_alternatives_are_none() -> None:
    assert top_of(None, [5], None) is None
    assert top_of([[]], [5], None) is None
    assert top_of([[], []], [5], None) is None
