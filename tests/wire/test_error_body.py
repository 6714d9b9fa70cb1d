"""The message of an error is found in each shape that engines send."""

import pytest

from gateway import error_message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, None),
        ("gone", "gone"),
        ({"message": "gone", "code": 7}, "gone"),
        ({"message": 7}, '{"message":7}'),
        ({"reason": 7}, '{"reason":7}'),
        ([{"loc": ["body"], "msg": "x"}], '[{"loc":["body"],"msg":"x"}]'),
        (7, "7"),
        (float, repr(float)),
    ],
)
def test_error_message_is_found_in_any_shape(error: object, message: str | None) -> None:
    assert error_message(error) == message
