"""Recorded Messages of a real vLLM: made anew of the chat that it had inside, byte for byte."""

import json
import re

import pytest
from support.records.vllm_recordings import MORE, RecordedExchange, load
from support.workers.as_chat import chat_answer, chat_events, events_of

from gateway.wire.translation.messages.request import Habits
from gateway.wire.translation.messages.translator import messages_as_chat
from gateway.wire.translation.translation import Unreadable, Untranslatable

RECORDED = [one for one in load(MORE).values() if one.path == "/v1/messages"]
ASKED = [one for one in RECORDED if one.method == "POST"]
ANSWERED = [one for one in ASKED if one.status == 200]
KNOWN = Habits(merges_system=False, effort_without_thinking="none")

SIGNATURE = re.compile(rb'"signature":"[0-9a-f]{32}"')


def name(exchange: RecordedExchange) -> str:
    return exchange.name


def is_stream(exchange: RecordedExchange) -> bool:
    return exchange.body.startswith(b"event: ")


def is_error(exchange: RecordedExchange) -> bool:
    return exchange.body.startswith(b"event: error")


STREAMS = [one for one in ANSWERED if is_stream(one) and not is_error(one)]
PLAIN = [one for one in ANSWERED if not is_stream(one)]


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


ABORTED = b'"delta":{"stop_reason":null,'


def as_told(recorded: bytes) -> bytes:
    """A stream that was aborted ends with an error; the engine closes the message."""
    if ABORTED not in recorded:
        return recorded
    error = b'{"type":"api_error","message":"The worker ended the response early."}'
    event = b'event: error\ndata: {"type":"error","error":%b}\n\n' % error
    return recorded.rpartition(b"event: content_block_stop")[0] + event


def unsigned(text: bytes) -> bytes:
    return SIGNATURE.sub(b'"signature":"..."', text)


@pytest.mark.parametrize("exchange", STREAMS, ids=name)
def test_recorded_stream_is_made_anew_of_its_chat(exchange: RecordedExchange) -> None:
    response = messages_as_chat(exchange.request_body, KNOWN).response
    made = [response.event(compact(one)) for one in chat_events(events_of(exchange.body))]
    if exchange.cut_short is None:
        made.append(response.end(done=True))
    recorded = unsigned(as_told(exchange.body))
    if exchange.cut_short is not None:  # perhaps between two events that are made at once
        assert recorded.startswith(unsigned(b"".join(made)))
    else:
        assert unsigned(b"".join(made)) == recorded


@pytest.mark.parametrize("exchange", PLAIN, ids=name)
def test_recorded_answer_is_made_anew_of_its_chat(exchange: RecordedExchange) -> None:
    response = messages_as_chat(exchange.request_body, KNOWN).response
    recorded = json.loads(exchange.body)
    chats = json.dumps(chat_answer(recorded)).encode()
    if "stop_reason" not in recorded:  # it was aborted
        with pytest.raises(Unreadable):
            response.answer(chats)
        return
    told = json.loads(unsigned(response.answer(chats)))
    assert told == json.loads(unsigned(compact(recorded)))


@pytest.mark.parametrize("exchange", [one for one in ASKED if one.status == 400], ids=name)
def test_request_that_the_engine_refuses_is_left_to_the_engine(exchange: RecordedExchange) -> None:
    """Or its chat is refused in the same words, which the engine has inside, too."""
    try:
        made = messages_as_chat(exchange.request_body, KNOWN)
    except Untranslatable:
        return
    recorded = json.loads(exchange.body)["error"]
    chats = {"error": {**recorded, "param": None, "code": 400}}
    told = json.loads(made.response.refusal(400, json.dumps(chats).encode(), "id"))
    assert told == {"type": "error", "error": recorded, "request_id": "id"}


def test_there_are_recordings_of_each_kind() -> None:
    assert len(STREAMS) > 10
    assert len(PLAIN) > 8
    texts = b"".join([one.body for one in STREAMS])
    assert all(kind in texts for kind in (b"thinking_delta", b"input_json_delta", b"signature"))
