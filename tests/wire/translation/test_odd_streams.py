"""Responses that no engine should send: translated rightly or failed, for both APIs."""

import json
from collections.abc import Iterable, Sized
from typing import Any

import pytest

from gateway.wire.translation.messages.request import PLAIN_CHAT
from gateway.wire.translation.messages.stream import MessagesStream
from gateway.wire.translation.messages.translator import messages_as_chat
from gateway.wire.translation.responses.translator import responses_as_chat
from gateway.wire.translation.translation import ResponseTranslator

ARGUMENTS = ['{"a": "é"}', '{"b": 2}']
APIS = ["messages", "responses"]


def translator(api: str) -> ResponseTranslator:
    if api == "messages":
        asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        return messages_as_chat(json.dumps(asked).encode(), PLAIN_CHAT).response
    include = ["reasoning.encrypted_content"]
    tools = [{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}]
    asked = {"model": "m", "input": "x", "stream": True, "include": include, "tools": tools}
    return responses_as_chat(json.dumps(asked).encode()).response


def chunk(delta: object, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def call(index: int, arguments: object = "", **fields: object) -> dict[str, Any]:
    """A delta of a tool call; fields are `id` and `name`."""
    function = {"arguments": arguments}
    if "name" in fields:
        function["name"] = fields.pop("name")
    return {"tool_calls": [{"index": index, "function": function, **fields}]}


def translated(api: str, chunks: Iterable[object]) -> list[dict[str, Any]]:
    made = translator(api)
    out = b"".join([made.event(json.dumps(one).encode()) for one in chunks])
    events = []
    for event in (out + made.end(done=True)).decode().split("\n\n")[:-1]:
        name, data = event.splitlines()
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + events[-1]["type"]
    numbers = [one["sequence_number"] for one in events if "sequence_number" in one]
    assert numbers == list(range(len(numbers)))
    return events


def has_ended(events: list[dict[str, Any]]) -> bool:
    """Whether a caller takes the response for a whole one."""
    return events[-1]["type"] in ("message_stop", "response.completed")


def has_failed(events: list[dict[str, Any]]) -> bool:
    return any(one["type"] == "error" for one in events) and not has_ended(events)


def calls_of(events: list[dict[str, Any]]) -> list[list[str]]:
    """The name and the arguments of each call that is whole."""
    calls: list[list[str]] = []
    for event in events:
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            calls.append([event["content_block"]["name"], ""])
        elif event.get("delta", {}) and "partial_json" in event["delta"]:
            calls[-1][1] += event["delta"]["partial_json"]
        elif event["type"] == "response.output_item.done":
            calls.append([event["item"]["name"], event["item"]["arguments"]])
    return calls


BEGUN = [chunk({"role": "assistant", "content": ""})]
ENDED = [chunk({}, "tool_calls")]
HALVES = [(text[:4], text[4:]) for text in ARGUMENTS]


def in_turn(**of_each_piece: object) -> list[object]:
    """Two calls of which each begins with its id and its name."""
    chunks: list[object] = []
    for number, halves in enumerate(HALVES):
        chunks.append(chunk(call(number, id=f"t{number}", name="f")))
        chunks += [chunk(call(number, half, **of_each_piece)) for half in halves]
    return chunks


def without_ids() -> list[object]:
    return [chunk(call(number, text, name="f")) for number, text in enumerate(ARGUMENTS)]


def of_one_index() -> list[object]:
    return [
        chunk(call(0, text, id=f"t{number}", name="f")) for number, text in enumerate(ARGUMENTS)
    ]


def name_after_the_id() -> list[object]:
    chunks: list[object] = []
    for number, text in enumerate(ARGUMENTS):
        id_ = {"tool_calls": [{"index": number, "id": f"t{number}"}]}
        chunks += [chunk(id_), chunk(call(number, text, name="f"))]
    return chunks


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "chunks",
    [
        in_turn(),
        in_turn(id="", name=""),
        in_turn(id=None, name=None),
        without_ids(),
        of_one_index(),
        name_after_the_id(),
    ],
    ids=["usual", "empty", "null", "no ids", "one index", "id first"],
)
def test_calls_of_other_servers_are_whole(api: str, chunks: list[object]) -> None:
    events = translated(api, BEGUN + chunks + ENDED)
    assert calls_of(events) == [["f", text] for text in ARGUMENTS]
    assert has_ended(events)


MIXED = [chunk(call(0, id="t0", name="f")), chunk(call(1, id="t1", name="f"))]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "chunks",
    [[*MIXED, chunk(call(0, "{}")), chunk(call(1, "{}"))], [chunk(call(0, "{}", id="t"))]],
    ids=["mixed", "no name"],
)
def test_arguments_of_no_call_that_is_open_fail_the_stream(api: str, chunks: list[object]) -> None:
    events = translated(api, BEGUN + chunks + ENDED)
    assert has_failed(events)
    assert all(arguments != "{}" for _, arguments in calls_of(events))


@pytest.mark.parametrize("api", APIS)
def test_only_the_first_choice_is_told(api: str) -> None:
    other = {"index": 1, "delta": {"content": "OTHER"}, "finish_reason": "length"}
    both = {"choices": [other, {"index": 0, "delta": {"content": "first"}}]}
    other_alone = chunk({"content": "OTHER"}, "length", index=1)
    chunks = [other_alone, both, other_alone, chunk({"content": "!"}, "stop"), other_alone]
    told = json.dumps(events := translated(api, chunks))
    assert ("OTHER" in told, has_ended(events)) == (False, True)
    assert '"max_tokens"' not in told
    assert '"max_output_tokens":' not in told.replace('"max_output_tokens": null', "")


VALUES = [5, True, {"a": 1}, ["x"]]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("before", [[], [chunk({"content": "x"})], [chunk({"reasoning": "x"})]])
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content", "arguments"])
def test_what_is_no_text_fails_the_stream(
    api: str, before: list[object], value: object, field: str
) -> None:
    delta = call(0, value, id="t", name="f") if field == "arguments" else {field: value}
    events = translated(api, [*before, chunk(delta), *ENDED])
    assert has_failed(events)


@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning": "?"}],
        [{"reasoning": "?"}, {"content": "x"}],
        [call(0, "?", id="t", name="c")],
    ],
    ids=["end", "next item", "custom call"],
)
def test_bytes_that_are_no_text_fail_the_response(deltas: list[object]) -> None:
    """Some texts are looked at only once they are whole."""
    made, out = translator("responses"), b""
    for delta in [{"content": "x"}, *deltas]:
        out += made.event(json.dumps(chunk(delta)).encode().replace(b"?", b"\xff"))
    out += made.event(json.dumps(chunk({}, "stop")).encode()) + made.end(done=True)
    types = [line for line in out.splitlines() if line.startswith(b"event: ")]
    assert types[0] == b"event: response.created"
    assert types[-2:] == [b"event: error", b"event: response.failed"]
    assert out.count(b'"sequence_number":') == len(types)
    assert b'"sequence_number":%d' % (len(types) - 1) in out


@pytest.mark.parametrize("api", APIS)
def test_half_a_surrogate_pair_does_not_fail_the_stream(api: str) -> None:
    chunks = [chunk({"content": "a\ud83d"}), chunk({"content": "\ude00 \ud83d"}, "stop")]
    events = translated(api, chunks)
    assert has_ended(events)
    assert "\ufffd" in json.dumps(events, ensure_ascii=False)


def test_text_within_a_call_is_kept_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.wire.translation.messages.stream.MAX_KEPT", 1000)
    open_call = chunk(call(0, "{", id="t", name="f"))
    events = translated("messages", [open_call, *[chunk({"content": "x" * 100})] * 11, *ENDED])
    assert has_failed(events)


def test_calls_without_end_are_not_kept() -> None:
    """An engine may begin as many calls as it likes: the translator remembers the open one."""
    made = MessagesStream(keeps_arguments=True)
    for number in range(500):
        made.event(json.dumps(chunk(call(number, "{}", id=f"t{number}", name="f"))).encode())
    kept = [getattr(made, name) for name in MessagesStream.__slots__]
    assert max(len(one) for one in kept if isinstance(one, Sized)) < 500


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fields", [{}, {"id": None}, {"id": ""}], ids=str)
def test_plain_calls_without_ids_get_some(api: str, fields: dict[str, object]) -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}, **fields}] * 2
    choice = {"index": 0, "message": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    told = json.loads(translator(api).answer(json.dumps({"choices": [choice]}).encode()))
    if api == "messages":
        ids = [block["id"] for block in told["content"]]
    else:
        ids = [item["call_id"] for item in told["output"]]
    assert len(set(ids)) == 2
    assert all(ids)


def ids_of(events: list[dict[str, Any]]) -> list[str]:
    begun = [event for event in events if "done" not in event["type"]]
    calls = [one.get("content_block") or one.get("item") or {} for one in begun]
    return [one.get("call_id") or one["id"] for one in calls if "name" in one]


@pytest.mark.parametrize("api", APIS)
def test_calls_to_which_a_server_gave_one_id_get_ids_of_their_own(api: str) -> None:
    """The client of OpenAI raises for a response in which an id is there twice."""
    chunks = [chunk(call(number, "{}", id="t", name="f")) for number in range(3)]
    events = translated(api, BEGUN + chunks + ENDED)
    ids = ids_of(events)
    assert (len(ids), len(set(ids)), ids[0]) == (3, 3, "t")
    assert has_ended(events)
    calls = [{"id": "t", "function": {"name": "f", "arguments": "{}"}}] * 2
    choice = {"index": 0, "message": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    told = json.loads(translator(api).answer(json.dumps({"choices": [choice]}).encode()))
    there = told["content"] if api == "messages" else told["output"]
    assert len({one.get("call_id") or one["id"] for one in there}) == 2


@pytest.mark.parametrize("api", APIS)
def test_call_that_goes_on_after_another_one_fails_the_stream(api: str) -> None:
    """With its name once more, each half would look like a call."""
    halves = [chunk(call(number, half, id=f"t{number}", name="f"))
              for number, half in ((0, '{"a'), (1, "{}"), (0, '": 1}'))]  # fmt: skip
    assert has_failed(translated(api, BEGUN + halves + ENDED))


REFUSED = [chunk({"refusal": "I "}), chunk({"refusal": "won't."}), chunk({}, "stop")]


def test_a_refusal_is_a_text_of_a_message_that_was_refused() -> None:
    events = translated("messages", BEGUN + REFUSED)
    told = [event["delta"] for event in events if "delta" in event]
    assert "".join(one.get("text", "") for one in told) == "I won't."
    assert told[-1]["stop_reason"] == "refusal"
    message = json.loads(translator("messages").answer(refusal()))
    assert message["content"] == [{"type": "text", "text": "I won't."}]
    assert message["stop_reason"] == "refusal"


def test_a_refusal_is_a_part_of_a_response() -> None:
    events = translated("responses", BEGUN + REFUSED)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[2:] == [
        *("output_item.added", "content_part.added", "refusal.delta", "refusal.delta"),
        *("refusal.done", "content_part.done", "output_item.done", "completed"),
    ]
    part = {"type": "refusal", "refusal": "I won't."}
    response = json.loads(translator("responses").answer(refusal()))
    for output in (events[-1]["response"]["output"], response["output"]):
        assert output[0]["content"] == [part]


def refusal() -> bytes:
    message = {"role": "assistant", "content": None, "refusal": "I won't."}
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
