"""The order of events, their numbers, and the ends that the recordings do not have."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records.translated.responses import chat_stream, events_of, normal, recorded

from gateway import Headers
from gateway.calls.callers.translating import TranslatingCaller
from gateway.wire.translation.responses.request.request import read
from gateway.wire.translation.responses.response import stream
from gateway.wire.translation.responses.sealed_reasoning import unseal
from gateway.wire.translation.responses.translator import ResponsesTranslator, carry
from gateway.wire.translation.translation import Unreadable

Json = Any

RECORDED = {one.name: one for one in recorded(streamed=True)}

FREE = {"type": "custom", "name": "free"}
SPACE = {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g"}]}


def translator(**fields: Json) -> ResponsesTranslator:
    asked = {"model": "m", "input": "Hi", "stream": True, **fields}
    made = carry(read(msgspec.json.encode(asked))).response
    assert isinstance(made, ResponsesTranslator)
    return made


def chunk(finish_reason: str | None = None, **delta: Json) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return msgspec.json.encode({"model": "tiny", "choices": [choice]})


def call(number: int, arguments: str, name: str | None = None) -> Json:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": number, "id": f"call_{number}" if name else None, "function": function}


def run(*chunks: bytes, done: bool = True, **fields: Json) -> list[Json]:
    made = translator(**fields)
    return events_of(b"".join(map(made.event, chunks)) + made.end(done=done))


def kinds(events: list[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_an_answer_without_a_token_has_no_item() -> None:
    events = run(chunk("stop", role="assistant", content=""))
    assert kinds(events) == ["created", "in_progress", "completed"]


@pytest.mark.parametrize("done", [True, False])
def test_the_finish_reason_alone_tells_whether_a_stream_is_whole(done: bool) -> None:
    assert kinds(run(chunk(content="a"), chunk("stop"), done=done))[-1] == "completed"
    assert kinds(run(chunk(content="a"), done=done))[-1] == "failed"


def test_content_and_calls_in_one_chunk_are_items_of_their_own() -> None:
    calls = [call(0, "{}", "f"), call(1, '{"a"', "n__g"), call(1, ":1}")]
    events = run(chunk("tool_calls", reasoning="R", content="C", tool_calls=calls), tools=[SPACE])
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    last = output[-1]
    assert (last["name"], last["namespace"], last["arguments"]) == ("g", "n", '{"a":1}')


def test_reasoning_content_is_reasoning() -> None:
    events = run(chunk(reasoning_content="R"), chunk("stop", content="C"))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "R"


def test_reasoning_can_be_taken_away() -> None:
    chunks = (chunk(reasoning="R é"), chunk("stop", content="C"))
    item = run(*chunks, include=["reasoning.encrypted_content"])[-1]["response"]["output"][0]
    assert unseal(item["encrypted_content"]) == "R é"
    assert run(*chunks)[-1]["response"]["output"][0]["encrypted_content"] is None


def test_half_of_a_surrogate_pair_is_read() -> None:
    half = rb'{"choices":[{"delta":{"reasoning":"\ud83d"}}]}'
    events = run(half, chunk("stop", content="C"))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "\ufffd"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_incomplete_has_a_reason(reason: str) -> None:
    last = run(chunk(reason, content="a"))[-1]
    assert last["type"] == "response.completed"
    told = {"length": "max_output_tokens"}.get(reason, reason)
    assert last["response"]["incomplete_details"] == {"reason": told}
    assert last["response"]["status"] == "incomplete"


@pytest.mark.parametrize("reason", ["abort", None])
def test_an_aborted_response_has_failed_and_its_call_is_not_done(reason: str | None) -> None:
    begun = chunk(tool_calls=[call(0, '{"cmd": "rm -r /tmp', "f")])
    events = run(chunk(content="a"), begun, chunk(reason))
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert [item["type"] for item in last["response"]["output"]] == ["message"]
    assert last["response"]["output"][0]["content"][0]["text"] == "a"
    assert kinds(events).count("output_item.added") == 2
    assert kinds(events).count("output_item.done") == 1


ERROR = {"message": "No memory", "type": "InternalServerError", "param": None, "code": 500}


@pytest.mark.parametrize("error", [ERROR, "No memory", {"a": "No memory"}])
def test_an_error_in_mid_stream_ends_the_response(error: Json) -> None:
    data = msgspec.json.encode({"error": error})
    events = run(chunk(content="a"), data, chunk(content="b"))
    assert kinds(events)[-2:] == ["error", "failed"]
    assert "output_item.done" not in kinds(events)
    assert "No memory" in events[-2]["message"]
    assert events[-2]["error"]["message"] == events[-2]["message"]
    assert events[-1]["response"]["error"]["message"] == events[-2]["message"]


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"choices":[{"delta":{"content":"a}}]}', b"\xff"])
def test_what_is_no_chunk_ends_the_response(data: bytes) -> None:
    assert kinds(run(data))[-1] == "failed"


@given(st.text(), st.data())
def test_free_text_arrives_as_it_is_called(text: str, data: st.DataObject) -> None:
    arguments = msgspec.json.encode({"input": text}).decode()
    if data.draw(st.booleans()):
        arguments = '{ "input" : ' + repr_json(text) + " }"
    cut = sorted(data.draw(st.lists(st.integers(0, len(arguments)), max_size=6)))
    pieces = [arguments[a:b] for a, b in zip([0, *cut], [*cut, len(arguments)], strict=True)]
    calls = [call(0, "", "free"), *(call(0, piece) for piece in pieces)]
    events = run(*(chunk(tool_calls=[one]) for one in calls), chunk("tool_calls"), tools=[FREE])
    deltas = "".join(one["delta"] for one in events if one["type"].endswith("input.delta"))
    item = events[-1]["response"]["output"][0]
    assert deltas == item["input"] == text


def repr_json(text: str) -> str:
    """`text` as JSON with every character escaped."""
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'


def test_free_text_that_is_not_json_is_sent_whole() -> None:
    calls = (call(0, "", "free"), call(0, "just"), call(0, " text"))
    events = run(*(chunk(tool_calls=[one]) for one in calls), chunk("stop"), tools=[FREE])
    assert events[-1]["response"]["output"][0]["input"] == "just text"


TEXTS = st.text(max_size=5)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"reasoning": text}, TEXTS),
    st.builds(lambda number, text: {"tool_calls": [call(number, text, "f")]},
              st.integers(0, 3), TEXTS),
    st.builds(lambda text: {"tool_calls": [call(0, text, "free")]}, TEXTS),
    st.just({}),
)  # fmt: skip


@given(st.lists(DELTAS, max_size=12), st.sampled_from(["stop", "length", "abort", None]))
def test_any_deltas_make_a_stream_in_order(deltas: list[Json], reason: str | None) -> None:
    events = run(*(chunk(**one) for one in deltas), chunk(reason), tools=[FREE])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds(events)[:2] == ["created", "in_progress"]
    added = [event["item"]["id"] for event in events if event["type"].endswith("item.added")]
    done = [event["item"] for event in events if event["type"].endswith("item.done")]
    whole = added if kinds(events)[-1] == "completed" else added[:-1]
    assert whole == [item["id"] for item in done]
    assert events[-1]["response"]["output"] == done
    for place, item in enumerate(done):
        own = [event for event in events if event.get("item_id") == item["id"]]
        assert {event["output_index"] for event in own} <= {place}
        if item["type"] == "function_call":
            pieces = "".join(event["delta"] for event in own if "delta" in event)
            assert pieces == item["arguments"]


def test_a_stream_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_BYTES", 1_000)
    events = run(*(chunk(content="a" * 50) for _ in range(20)))
    assert kinds(events)[-2:] == ["error", "failed"]
    assert len(events) < 20


@given(st.lists(st.integers(1, 400), max_size=30), st.sampled_from(sorted(RECORDED)))
async def test_how_a_stream_is_cut_does_not_matter(cuts: list[int], name: str) -> None:
    """Through the caller that splits what comes into events."""
    sent = b"".join(b"data: %b\n\n" % one for one in chat_stream(RECORDED[name]))
    sent += b"data: [DONE]\n\n"
    places = sorted({cut * 37 % len(sent) for cut in cuts})
    pieces = [sent[a:b] for a, b in zip([0, *places], [*places, len(sent)], strict=True)]
    assert normal(events_of(await through(pieces))) == normal(events_of(await through([sent])))


async def through(pieces: list[bytes]) -> bytes:
    last = ListCaller()
    way = TranslatingCaller(last, translator(), "id", 10**6, streams=False)
    way.start(200, [(b"content-type", b"text/event-stream")])
    for piece in pieces[:-1]:
        way.write(piece)
    way.receive_last(pieces[-1])
    await way.end(pieces[-1])
    return b"".join(last.sent)


class ListCaller:
    """A gateway Caller that keeps what it gets."""

    def __init__(self) -> None:
        self.drained: Callable[[], None] = lambda: None
        self.sent: list[bytes] = []

    def start(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def cut(self) -> None: ...

    async def end(self, data: bytes) -> None:
        self.sent.append(data)


@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes) -> None:
    made = translator()
    made.event(data)
    made.end(done=True)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices":[]}', b'{"choices":[{"message":3}]}'])
def test_a_plain_answer_that_is_not_chats_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        translator(stream=False).answer(body)
