"""A Messages stream that has failed is closed by nothing: agents run a call that looks whole."""

import msgspec
import pytest

from gateway.wire.translation.messages.stream import MessagesStream

HALF_A_CALL = {
    "tool_calls": [
        {
            "index": 0,
            "id": "t",
            "function": {"name": "Bash", "arguments": '{"command": "rm -r /tmp'},
        }
    ]
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(*choices: object, **fields: object) -> bytes:
    return msgspec.json.encode({"id": "c", "model": "m", "choices": choices, **fields})


def events_of(*data: bytes) -> list[str]:
    stream = MessagesStream(keeps_arguments=False)
    made = b"".join([stream.event(one) for one in data]) + stream.end(done=True)
    return [line[7:] for line in made.decode().splitlines() if line.startswith("event: ")]


def gave_up(reason: str) -> bytes:
    return chunk({"index": 0, "delta": {}, "finish_reason": reason})


LASTS: dict[str, tuple[bytes, ...]] = {
    "done": (),
    "usage": (chunk(usage=USAGE),),
    "abort": (gave_up("abort"),),
    "abort and usage": (gave_up("abort"), chunk(usage=USAGE)),
    "error": (gave_up("error"),),
}


@pytest.mark.parametrize("last", LASTS.values(), ids=LASTS)
def test_a_stream_that_the_engine_gave_up_ends_with_an_error(last: tuple[bytes, ...]) -> None:
    events = events_of(chunk({"index": 0, "delta": HALF_A_CALL}), *last)
    assert events == ["message_start", "content_block_start", "content_block_delta", "error"]


@pytest.mark.parametrize("begun", [(), (chunk({"index": 0, "delta": {"content": ""}}),)])
def test_an_abort_before_the_first_token_is_an_error(begun: tuple[bytes, ...]) -> None:
    assert events_of(*begun)[-1] == "error"
    assert events_of(*begun, gave_up("abort")).count("error") == 1


def test_what_comes_with_an_abort_is_told() -> None:
    last = chunk({"index": 0, "delta": {"content": "Hi"}, "finish_reason": "abort"})
    stream = MessagesStream(keeps_arguments=False)
    made = stream.event(chunk({"index": 0, "delta": {"content": ""}})) + stream.event(last)
    assert b'"text":"Hi"' in made
    assert msgspec.json.decode(made.rpartition(b"data: ")[2])["error"] == {
        "type": "api_error",
        "message": "The worker ended the response early.",
    }
    assert stream.end(done=True) == b""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"message": "Dead", "type": "InternalServerError", "code": 500}, "api_error"),
        ({"message": "Full", "type": "ServiceUnavailableError", "code": 503}, "overloaded_error"),
        ({"message": "Slow", "type": "overloaded_error"}, "overloaded_error"),
        ({"message": "Odd", "type": ["a"], "code": None}, "api_error"),
        ("Dead", "api_error"),
    ],
)
def test_an_error_event_has_a_type_that_anthropics_clients_know(error: object, told: str) -> None:
    stream = MessagesStream(keeps_arguments=False)
    stream.event(chunk({"index": 0, "delta": HALF_A_CALL}))
    event = stream.event(msgspec.json.encode({"error": error}))
    assert event.startswith(b"event: error\ndata: ")
    assert msgspec.json.decode(event[19:])["error"]["type"] == told
    assert stream.end(done=True) == b""
