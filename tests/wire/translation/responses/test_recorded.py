"""Translated responses equal the engine's own, but for ids, times and what the manual lists."""

import msgspec
import pytest
from support.records.translated.responses import (
    chat_answer,
    chat_stream,
    events_of,
    normal,
    recorded,
)
from support.records.vllm_recordings import RecordedExchange

from gateway.wire.translation.responses.request.request import read
from gateway.wire.translation.responses.translator import ResponsesTranslator, carry

STREAMS = {one.name: one for one in recorded(streamed=True)}
ANSWERS = {one.name: one for one in recorded(streamed=False)}

LEFT_TO_ENGINE = ("enable_response_messages", "previous_response_id", "background", "request_id")


def translator_for(exchange: RecordedExchange) -> ResponsesTranslator:
    fields = msgspec.json.decode(exchange.request_body)
    asked = {name: value for name, value in fields.items() if name not in LEFT_TO_ENGINE}
    translator = carry(read(msgspec.json.encode(asked))).response
    assert isinstance(translator, ResponsesTranslator)
    return translator


def without_engines_own(event: object) -> object:
    """`event` without the tokens, and without limits that the request did not have."""
    if isinstance(event, dict) and (response := event.get("response", event)):
        for name in ("input_messages", "output_messages", "previous_response_id", "background"):
            response.pop(name, None)
    return event


@pytest.mark.parametrize("name", STREAMS)
def test_events_equal_those_of_the_engine(name: str) -> None:
    exchange = STREAMS[name]
    translator = translator_for(exchange)
    out = b"".join(map(translator.event, chat_stream(exchange))) + translator.end(done=True)
    ours, theirs = normal(events_of(out)), normal(events_of(exchange.body))
    assert list(map(without_engines_own, ours)) == list(map(without_engines_own, theirs))


@pytest.mark.parametrize("name", ANSWERS)
def test_plain_responses_equal_those_of_the_engine(name: str) -> None:
    exchange = ANSWERS[name]
    out = translator_for(exchange).answer(chat_answer(exchange))
    ours = without_engines_own(normal(msgspec.json.decode(out)))
    assert ours == without_engines_own(normal(msgspec.json.decode(exchange.body)))
