"""Lines of files of results: whatever was answered, one line of JSON that says it."""

import json

import msgspec
import pytest
from gateway_plugins.batch.batches.results import Done, encoded
from gateway_plugins.batch.queue.items import CANCELED, COMPLETED, ERROR, ItemError
from gateway_plugins.batch.queue.texts import pack
from hypothesis import example, given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def done(
    answer: bytes | None, status: int | None = 200, state: int = COMPLETED, error: str | None = None
) -> Done:
    stored = None if error is None else msgspec.json.encode(ItemError(error, "why")).decode()
    packed = None if answer is None else pack(answer)
    return Done(1, "batch_req_1", "a", state, status, stored, "req-1", packed)


def read(one: Done) -> tuple[bytes, bool]:
    """The line without its end, and whether it belongs to the output file."""
    result = one.result()
    text = encoded(result)
    assert text.endswith(b"\n")
    return text[:-1], result.is_success


@given(JSON, st.sampled_from([None, 0, 2]))
@example({"a\u2028b": ["\u2029", "\x85", "\x0b\x1c", "\r\n"]}, None)
def test_answer_is_the_body_of_a_line_that_all_readers_take_for_one(
    value: object, indent: int | None
) -> None:
    answer = json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "replace")
    text, is_output = read(done(answer))
    assert is_output
    assert len(text.decode().splitlines()) == 1
    assert json.loads(text) == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req-1", "body": json.loads(answer)},
        "error": None,
    }


@given(st.binary(max_size=20))
def test_any_answer_gives_one_line_of_json(answer: bytes) -> None:
    text, _ = read(done(answer))
    assert len(text.decode().splitlines()) == 1
    assert json.loads(text)["response"]["status_code"] == 200


def test_numbers_of_an_answer_keep_their_digits() -> None:
    text, _ = read(done(b'{\n"logprob": -0.10000000000000000001, "big": 1234567890123456789012}'))
    assert b"-0.10000000000000000001" in text
    assert b"1234567890123456789012" in text


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (done(None, None, ERROR, "batch_expired"), "batch_expired"),
        (done(None, None, CANCELED, "batch_cancelled"), "batch_cancelled"),
        (done(None, None, CANCELED, "canceled"), "batch_cancelled"),
        (done(b"{}", 504, ERROR, "upstream_first_byte_timeout"), "request_timeout"),
        (done(b"{}", 504, ERROR, "upstream_timeout"), "request_timeout"),
        (done(b'{"cut', 200, ERROR, "upstream_closed"), "upstream_closed"),
        (done(None, None, ERROR, "response_too_large"), "response_too_large"),
        (done(None, None, ERROR), "unknown"),
    ],
)
def test_line_without_an_answer_has_an_error_and_no_response(one: Done, code: str) -> None:
    text, is_output = read(one)
    assert not is_output
    found = json.loads(text)
    assert found["response"] is None
    assert found["error"]["code"] == code
    assert found["error"]["message"]


@pytest.mark.parametrize("status", [400, 403, 404, 500, 502, 503])
def test_rejected_request_has_the_response_and_no_error(status: int) -> None:
    text, is_output = read(done(b'{"error": {"message": "no"}}', status, ERROR, str(status)))
    assert not is_output
    found = json.loads(text)
    assert found["error"] is None
    assert found["response"]["status_code"] == status
    assert found["response"]["body"] == {"error": {"message": "no"}}


def test_damaged_answer_is_an_error_of_its_line_alone() -> None:
    one = msgspec.structs.replace(done(b"{}"), answer=b"\x05damaged")
    text, is_output = read(one)
    assert not is_output
    assert json.loads(text)["error"]["code"] == "response_lost"
