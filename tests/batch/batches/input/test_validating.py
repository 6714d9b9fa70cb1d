"""Input files that are at fault: each bad line is named, with what is wrong in it."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from gateway_plugins.batch.batches.gentle import Gentle, Stopped
from gateway_plugins.batch.batches.input.checking import Limits, Mistake, Mistaken, read
from gateway_plugins.batch.batches.input.lines import Line
from gateway_plugins.batch.batches.input.validating import Findings, validate
from hypothesis import given
from hypothesis import strategies as st

CHAT = "/v1/chat/completions"
LIMITS = Limits(lines=1_000, line_bytes=4_096, one_model=False)


def line(custom_id: object = "a", **changes: object) -> bytes:
    """A line; a member is left out if `changes` has it as None."""
    body = {"model": "sim", "messages": []}
    members = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes
    return msgspec.json.encode({name: one for name, one in members.items() if one is not None})


def found(
    tmp_path: Path, *lines: bytes, limits: Limits = LIMITS, endpoint: str = CHAT, end: bytes = b"\n"
) -> Findings:
    file = tmp_path / "input"
    file.write_bytes(b"".join(one + end for one in lines))
    return validate(file, endpoint, limits, lambda: None)


def mistake(tmp_path: Path, *lines: bytes, **more: object) -> Mistake:
    """The only mistake in these lines."""
    [one] = found(tmp_path, *lines, **more).mistakes  # type: ignore[arg-type]
    return one


def test_valid_file_has_lines_and_a_model(tmp_path: Path) -> None:
    assert found(tmp_path, line("a"), b"", line("b"), b" ") == Findings(2, "sim", [])


def test_file_with_several_models_has_none_of_its_own(tmp_path: Path) -> None:
    other = line("b", body={"model": "other"})
    assert found(tmp_path, line("a"), other, line("c")) == Findings(3, None, [])


def test_second_model_is_a_mistake_if_one_model_is_wanted(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, one_model=True)
    other = line("b", body={"model": "other"})
    one = mistake(tmp_path, line("a"), other, limits=limits)
    assert (one.code, one.param, one.line) == ("model_mismatch", "body.model", 2)
    assert "'other'" in one.message
    assert "'sim'" in one.message


BAD: Mapping[bytes, tuple[str, str | None]] = {
    b"{": ("invalid_json_line", None),
    b"nonsense": ("invalid_json_line", None),
    b"[]": ("invalid_json_line", None),
    b"5": ("invalid_json_line", None),
    b'{"custom_id": "\xff"}': ("invalid_json_line", None),
    b"[" * 4_000: ("invalid_json_line", None),
    line("a").decode().encode("utf-16-le"): ("invalid_json_line", None),
    line("x" * 5_000): ("invalid_request", None),
    line(None): ("invalid_request", "custom_id"),
    line(7): ("invalid_request", "custom_id"),
    line(""): ("invalid_request", "custom_id"),
    line(method=None): ("invalid_request", "method"),
    line(method="GET"): ("invalid_request", "method"),
    line(url=None): ("invalid_request", "url"),
    line(url="/v1/completions"): ("url_mismatch", "url"),
    line(body=None): ("invalid_request", "body"),
    line(body=[]): ("invalid_request", "body"),
    line(body="{}"): ("invalid_request", "body"),
    line(body={}): ("invalid_request", "body.model"),
    line(body={"model": 5}): ("invalid_request", "body.model"),
    line(body={"model": "sim", "stream": True}): ("invalid_request", "body.stream"),
    line(body={"model": "sim", "stream": "true"}): ("invalid_request", "body.stream"),
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[:40].decode("latin-1"))
def test_bad_line_is_named_with_what_is_wrong(tmp_path: Path, bad: bytes) -> None:
    one = mistake(tmp_path, line("first"), bad, line("last"))
    assert (one.code, one.param) == BAD[bad]
    assert one.line == 2
    assert len(one.message) > 10


def test_stream_false_or_null_is_no_mistake(tmp_path: Path) -> None:
    bodies = [{"model": "sim", "stream": value} for value in (False, None)]
    lines = [line(str(number), body=body) for number, body in enumerate(bodies)]
    assert not found(tmp_path, *lines).mistakes


def test_custom_id_that_is_there_already_is_a_mistake_that_names_both_lines(tmp_path: Path) -> None:
    """Fault 4.1."""
    one = mistake(tmp_path, line("a"), line("b"), line("a"))
    assert (one.code, one.param, one.line) == ("duplicate_custom_id", "custom_id", 3)
    assert "line 1" in one.message


@pytest.mark.parametrize("lines", [(), (b"",), (b"", b" \t", b"")])
def test_file_without_requests_is_a_mistake(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    assert mistake(tmp_path, *lines).code == "empty_file"


def test_file_that_ends_in_mid_line_is_a_mistake_of_that_line(tmp_path: Path) -> None:
    file = tmp_path / "cut"
    file.write_bytes(line("a") + b"\n" + line("b")[:-10])
    [one] = validate(file, CHAT, LIMITS, lambda: None).mistakes
    assert (one.code, one.line) == ("invalid_json_line", 2)
    assert "cut off" in one.message


def test_last_line_without_line_end_is_a_request(tmp_path: Path) -> None:
    assert found(tmp_path, line("a"), end=b"") == Findings(1, "sim", [])


def test_line_after_the_maximum_is_the_last_that_is_read(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, lines=3)
    one = mistake(tmp_path, *(line(str(n)) for n in range(3)), b"{", b"{", limits=limits)
    assert (one.code, one.line) == ("too_many_tasks", 4)
    assert "max_lines" in one.message


@pytest.mark.parametrize(
    ("given_", "inputs"),
    [("text", 1), ([1, 2, 3], 1), (["a", "b"], 2), ([[1, 2], [3]], 2), ([], 1), (None, 1)],
)
def test_inputs_of_embeddings_are_counted(given_: object, inputs: int) -> None:
    text = line(url="/v1/embeddings", body={"model": "sim", "input": given_})
    assert read(Line(1, text), "/v1/embeddings", 4_096).inputs == inputs


def test_inputs_of_embeddings_have_a_maximum_in_all(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, lines=5)
    texts = [
        line(str(n), url="/v1/embeddings", body={"model": "sim", "input": ["a", "b", "c"]})
        for n in range(2)
    ]
    one = mistake(tmp_path, *texts, limits=limits, endpoint="/v1/embeddings")
    assert (one.code, one.param, one.line) == ("too_many_tasks", "body.input", 2)


def test_hundred_mistakes_are_told_and_no_more(tmp_path: Path) -> None:
    mistakes = found(tmp_path, *[b"{"] * 150).mistakes
    assert [one.line for one in mistakes] == list(range(1, 101))


def test_body_is_kept_as_it_came() -> None:
    body = (
        b'{ "model":"sim","n":1.50, "x":"\\u00e9\xc3\xa9", "big":123456789012345678901234567890 }'
    )
    text = line("a")[: -len(b'{"model":"sim","messages":[]}}')] + body + b"}"
    assert read(Line(1, text), CHAT, 4_096).body == body


def test_half_of_a_surrogate_pair_is_kept_as_it_came() -> None:
    """Some engines take it in live calls, so a batch may have it, too."""
    body = rb'{"model":"sim","messages":["\ud83d", "\ud83d\ude00"]}'
    text = line("a")[: -len(b'{"model":"sim","messages":[]}}')] + body + b"}"
    assert read(Line(1, text), CHAT, 4_096).body == body


def test_validation_stops_if_the_gateway_ends(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"".join(line(str(n)) + b"\n" for n in range(1_000)))
    with pytest.raises(Stopped):
        validate(file, CHAT, LIMITS, Gentle(lambda: True).step)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": JSON | st.just("a"),
        "method": JSON | st.just("POST"),
        "url": JSON | st.just(CHAT),
        "body": JSON | st.fixed_dictionaries({"model": JSON}, optional={"stream": JSON}),
    },
)


@given(MEMBERS.map(msgspec.json.encode) | st.binary(max_size=30))
def test_any_line_is_a_request_or_a_mistake(text: bytes) -> None:
    with contextlib.suppress(Mistaken):
        assert read(Line(1, text), CHAT, 4_096).body in text
