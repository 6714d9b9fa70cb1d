"""The fields of a request are read as vLLM reads them, whatever the body."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.request import (
    Prompts,
    has_several,
    is_true,
    read_bounds,
    read_head,
    read_prompts,
)


@pytest.mark.parametrize(
    ("value", "streams"),
    [
        (True, True),
        ("true", True),
        ("Yes", True),
        ("1", True),
        (1, True),
        (1.0, True),
        (False, False),
        (None, False),
        ("false", False),
        ("OFF", False),
        ("0", False),
        (0, False),
        (0.0, False),
    ],
)
def test_request_head_reads_stream_as_pydantic_does(value: object, streams: bool) -> None:
    head = read_head(json.dumps({"stream": value, "model": "m"}).encode())
    assert (head.model, head.streams) == ("m", streams)
    assert is_true(value) is streams


@pytest.mark.parametrize(
    ("body", "streams"),
    [
        (b'{"\\u0073tream": true}', True),
        (b'{"stream":true,"stream":false}', False),
        (b'{"messages":[{"content":"say \\"stream\\": true"}]}', False),
        (b'{"metadata":{"stream":true}}', False),
        (b'{"stream":{},"model":"m"}', True),
        (b'{"stream":true', False),
        (b'["stream"]', False),
        (b"", False),
        (b'{"stream":"\xff"}', False),
        (b'{"stream":' + b"[" * 5_000 + b"]" * 5_000 + b"}", False),
    ],
)
def test_request_head_reads_stream_at_the_top_level_only(body: bytes, streams: bool) -> None:
    assert read_head(body).streams is streams


@given(st.binary() | st.from_type(object).map(lambda value: repr(value).encode()))
def test_request_head_reads_any_body(body: bytes) -> None:
    assert read_head(body).streams in (True, False)
    assert read_bounds(body).n is None or isinstance(read_bounds(body).n, int)


def test_request_head_reads_the_model_beside_a_wrong_stream() -> None:
    assert read_head(b'{"model":"m","stream":[]}').model == "m"


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("one", Prompts(1, 0)),
        (["one"], Prompts(1, 0)),
        (["one", "two, three"], Prompts(2, 0)),
        ([7, 8, 9], Prompts(1, 3)),
        ([[7, 8], [9]], Prompts(2, 3)),
        ([[7], [8, 9], [10]], Prompts(3, 4)),
        ([[], [7]], Prompts(2, 1)),
        ([], Prompts(1, 0)),
        (None, Prompts(1, 0)),
        ({"a": 1}, Prompts(1, 0)),
        ([{"role": "user", "content": "one, conversation"}], Prompts(1, 0)),
        ([[{"role": "user"}, {"role": "user"}], [{"role": "user"}]], Prompts(2, 0)),
    ],
)
def test_request_prompts_are_counted(prompt: object, found: Prompts) -> None:
    assert read_prompts(json.dumps({"prompt": prompt}).encode(), "prompt") == found
    assert read_prompts(json.dumps({"prompt": prompt}, indent=1).encode(), "prompt") == found


@pytest.mark.parametrize("prompt", [b"1" + b",1" * 100_000, b"[1]" + b",[1]" * 100_000])
def test_long_prompts_of_token_ids_are_counted_without_an_object_for_each(prompt: bytes) -> None:
    body = b'{"prompt":[%b]}' % prompt
    tracemalloc.start()
    try:
        found = read_prompts(body, "prompt")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.token_ids == 100_001
    assert peak < 3 * len(body)


@given(st.binary(), st.binary())
def test_request_prompts_of_any_body_are_at_least_one(before: bytes, after: bytes) -> None:
    for body in (before, b'{"prompt":%b}' % before, b'{"prompt":[%b,%b]}' % (before, after)):
        assert read_prompts(body, "prompt").count >= 1


ASKED: dict[str, st.SearchStrategy[object]] = {
    "n": st.sampled_from([None, 0, 1, 2, "2", "x", 1.0, True, [2]]),
    "prompt": st.sampled_from(["a", "[", [], ["a"], ["a", "b"], [1, 2], [[1], [2]], 1, None, {}]),
    "stream": st.sampled_from([True, 10**400]),
    "model": st.sampled_from(["m", 5]),
    "messages": st.sampled_from(['"n": 2', "\\ud800", [1]]),
}


@given(st.fixed_dictionaries({}, optional=ASKED) | st.binary(max_size=9) | st.just([2]))
def test_request_has_several_as_its_bounds_and_prompts_say(asked: object) -> None:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    several = (read_bounds(body).n or 1) > 1 or read_prompts(body, "prompt").count > 1
    assert has_several(body) is several
    assert read_head(body).several >= several
