import msgspec
import pytest

from gateway.wire.translation.responses.errors import refusal


def test_a_refusal_names_the_fields_of_responses() -> None:
    error = {"message": "max_completion_tokens=9 is too large", "type": "BadRequestError",
             "param": "max_completion_tokens", "code": 400}  # fmt: skip
    told = msgspec.json.decode(refusal(msgspec.json.encode({"error": error})))["error"]
    assert told["param"] == "max_output_tokens"
    assert told["message"] == "max_output_tokens=9 is too large"
    assert (told["type"], told["code"]) == ("BadRequestError", 400)


@pytest.mark.parametrize("body", [b"", b"Bad gateway", b'{"error":3}', b'{"error":{"message":1}}'])
def test_other_bodies_stay(body: bytes) -> None:
    assert refusal(body) == body
