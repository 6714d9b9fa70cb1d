"""What a response says of itself is read from its first and its last bytes, whatever they are."""

import json

import msgspec
import pytest
from gateway_plugins.otel.response import HEAD, MAX_TEXT, ROOM, TAIL, Ends, Said, Watched, said_of
from hypothesis import given
from hypothesis import strategies as st

from gateway.testing import DONE, sse


def watched(*chunks: bytes, stream: bool = True) -> Watched:
    found = Watched(stream)
    found.stream = stream
    for chunk in chunks:
        found.ends.add(chunk)
    return found


def chunk(*reasons: str | None, text: str = "a") -> bytes:
    choices = [
        {"index": index, "delta": {"content": text}, "finish_reason": reason}
        for index, reason in enumerate(reasons)
    ]
    return sse({"id": "c1", "model": "m", "choices": choices})


def test_stream_of_chat_says_why_each_choice_ended() -> None:
    events = [chunk(None, None), chunk("stop", None), chunk(None, "length") + DONE]
    assert said_of(watched(*events)) == Said("c1", "m", ("stop", "length"))


def test_long_stream_is_read_from_its_ends() -> None:
    events = [chunk(None, text="x" * 100)] * 1_000
    found = watched(*events, chunk("stop"), sse({"choices": [], "usage": {}}) + DONE)
    assert not found.ends.whole
    assert said_of(found) == Said("c1", "m", ("stop",))


def test_text_of_the_model_is_no_reason() -> None:
    quoted = chunk(None, text='{"finish_reason": "stop", "model": "x"}')
    assert said_of(watched(quoted, chunk("length"))) == Said("c1", "m", ("length",))


@pytest.mark.parametrize("size", [10, 100_000])
def test_plain_response_says_its_model_and_reasons(size: int) -> None:
    choice = {"index": 0, "message": {"content": "x" * size}, "finish_reason": "stop"}
    body = json.dumps({"id": "c1", "model": "m", "choices": [choice], "usage": {}}).encode()
    found = said_of(watched(body[:5_000], body[5_000:], stream=False))
    assert (found.model, found.reasons) == ("m", ("stop",))


def test_messages_and_responses_say_why_they_ended() -> None:
    started = {"type": "message_start", "message": {"id": "m1", "model": "m"}}
    ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert said_of(watched(sse(started), sse(ended))) == Said("m1", "m", ("end_turn",))
    created = {"type": "response.created", "response": {"id": "r1", "model": "m"}}
    detail = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    done = {"type": "response.incomplete", "response": {"id": "r1", **detail}}
    assert said_of(watched(sse(created), sse(done))) == Said("r1", "m", ("max_output_tokens",))


@given(st.lists(st.binary(max_size=3 * ROOM), max_size=8), st.booleans())
def test_any_bytes_are_read_and_bounded(chunks: list[bytes], stream: bool) -> None:
    found = watched(*chunks, stream=stream)
    said_of(found)
    kept = b"".join(found.ends.chunks)
    assert len(kept) <= ROOM
    whole = b"".join(chunks)
    assert kept == whole or not found.ends.whole
    if not found.ends.whole:
        assert kept.startswith(whole[: min(HEAD, len(chunks[0]))])
        assert whole.endswith(kept[-min(TAIL, len(chunks[-1])) :])


def test_texts_of_a_response_are_cut() -> None:
    told = {"id": "i" * 3_000, "model": "m" * 3_000, "choices": [{"finish_reason": "r" * 3_000}]}
    found = said_of(watched(msgspec.json.encode(told), stream=False))
    assert {len(found.id), len(found.model), len(found.reasons[0])} == {MAX_TEXT}


def test_room_is_lowered_as_the_kernel_lowers_it() -> None:
    ends = Ends()
    ends.add(b"a" * 10)
    assert ends.room == ROOM - 10
