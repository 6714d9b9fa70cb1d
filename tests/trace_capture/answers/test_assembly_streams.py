"""A stream is recorded as the plain answer would have been."""

import json
from typing import Any

import pytest
from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.answers.rebuild import whole
from hypothesis import given
from hypothesis import strategies as st
from support.records.random_answers import exchanges, slim, some
from support.records.trace_records import choices_in
from support.records.vllm_recordings import RecordedExchange, load

from gateway.testing import DONE, sse

PATHS = {True: "/v1/chat/completions", False: "/v1/completions"}


def read(exchange: RecordedExchange, *, streamed: bool) -> Assembled:
    return assemble(exchange.path, exchange.body, streamed=streamed)


def comparable(answer: Assembled) -> list[Any]:
    """The choices, without what is made anew for each call of an engine."""
    choices = []
    for choice in choices_in(answer):
        for call in (choice.message or {}).get("tool_calls", []):
            call["id"] = ""
        values = {name: getattr(choice, name) for name in choice.__struct_fields__}
        del values["prompt_logprobs"]  # not in streams
        choices.append(slim(values))
    return choices


def recorded_pairs() -> list[tuple[str, str]]:
    """Recordings of the same request, plain and streamed, that chance has no part in."""
    plain: dict[str, str] = {}
    streamed: list[tuple[str, str]] = []
    for name, exchange in load().items():
        if exchange.path not in PATHS.values() or exchange.status != 200 or exchange.cut_short:
            continue
        request = json.loads(exchange.request_body)
        stream = request.pop("stream", False)
        request.pop("stream_options", None)
        key = json.dumps([exchange.path, request, name.split("/")[0]], sort_keys=True)
        if stream:
            streamed.append((key, name))
        else:
            plain[key] = name
    aborted = ("devmode/mid_", "extra/", "crash/")
    return [
        (plain[key], name)
        for key, name in streamed
        if key in plain and not name.startswith(aborted)
    ]


PAIRS = recorded_pairs()


def test_recordings_include_pairs_of_plain_and_streamed_responses() -> None:
    assert len(PAIRS) >= 12


@pytest.mark.parametrize(("plain", "streamed"), PAIRS)
def test_assembly_of_a_recorded_stream_equals_the_plain_response(plain: str, streamed: str) -> None:
    one = read(load()[plain], streamed=False)
    other = read(load()[streamed], streamed=True)
    assert comparable(one) == comparable(other)
    assert other.done
    assert other.readable


@some
@given(exchanges(chat=True))
def test_assembly_of_any_chat_stream_equals_the_plain_response(
    exchange: tuple[bytes, bytes],
) -> None:
    check(exchange, chat=True)


@some
@given(exchanges(chat=False))
def test_assembly_of_any_completion_stream_equals_the_plain_response(
    exchange: tuple[bytes, bytes],
) -> None:
    check(exchange, chat=False)


def check(exchange: tuple[bytes, bytes], *, chat: bool) -> None:
    plain = assemble(PATHS[chat], exchange[0], streamed=False)
    streamed = assemble(PATHS[chat], exchange[1], streamed=True)
    assert streamed.parts == plain.parts
    assert choices_in(streamed) == choices_in(plain)
    assert streamed.completion_tokens == plain.completion_tokens
    assert (streamed.done, streamed.readable, streamed.error) == (True, True, None)
    found, expected = whole(streamed.skeleton, streamed.parts), json.loads(exchange[0])
    assert slim(found) == slim(expected)


@some
@given(exchanges(chat=True), st.data())
def test_assembly_of_a_truncated_stream_gives_a_prefix(
    exchange: tuple[bytes, bytes], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(exchange[1])))
    full = assemble(PATHS[True], exchange[1], streamed=True)
    part = assemble(PATHS[True], exchange[1][:at], streamed=True)
    assert part.readable or at < 3  # within the byte order mark
    ids = {choice.index: choice.token_ids for choice in choices_in(full)}
    for choice in choices_in(part):
        assert choice.token_ids == ids[choice.index][: len(choice.token_ids)]
        assert len(choice.logprobs) == len(choice.token_ids)


def test_assembly_reads_several_tokens_from_one_event() -> None:
    answer = read(load()["default/chat_stream_interval3"], streamed=True)
    [part] = answer.parts
    assert len(part.token_ids) == len(part.logprobs) == answer.completion_tokens == 8
    assert answer.events < 8


def test_assembly_takes_the_last_continuous_usage() -> None:
    answer = read(load()["default/chat_stream_continuous_usage"], streamed=True)
    assert answer.completion_tokens == 8


def test_assembly_reports_a_missing_done_and_an_engine_error() -> None:
    cut = read(load()["default/abort_midstream"], streamed=True)
    assert (cut.done, cut.readable, cut.error) == (False, True, None)
    dead = read(load()["crash/kill9_worker_stream"], streamed=True)
    assert (dead.done, dead.readable) == (True, True)
    assert (dead.error or "").startswith("EngineCore encountered an issue")
    assert dead.parts[0].token_ids


def test_assembly_loses_only_the_unreadable_event() -> None:
    body = load()["default/chat_stream_token_ids_logprobs_usage"].body
    frames = body.split(b"\n\n")
    frames[3] = b"data: {oops"
    answer = assemble(PATHS[True], b"\n\n".join(frames), streamed=True)
    assert not answer.readable
    assert len(answer.parts[0].token_ids) == 7


def stream(*deltas: dict[str, Any]) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()


def message_of(*deltas: dict[str, Any]) -> Any:
    return choices_in(assemble(PATHS[True], stream(*deltas), streamed=True))[0].message


def test_assembly_merges_tool_calls_with_repeated_or_missing_fields() -> None:
    named = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
    again = {"id": "a", "type": "", "function": {"name": "", "arguments": "}"}}
    other = {"id": "b", "type": "function", "function": {"name": "g", "arguments": "1"}}
    message = message_of({"tool_calls": [named]}, {"tool_calls": [again]}, {"tool_calls": [other]})
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "1"}},
    ]


def test_assembly_merges_unknown_delta_fields() -> None:
    legacy = (
        {"function_call": {"name": "f", "arguments": "{"}},
        {"function_call": {"arguments": "}"}},
    )
    assert message_of(*legacy)["function_call"] == {"name": "f", "arguments": "{}"}
    parts = ({"content": [{"type": "thinking", "thinking": "m"}]}, {"content": "hi"})
    thinking, text = message_of(*parts)["content"]
    assert (thinking["thinking"], text) == ("m", {"type": "text", "text": "hi"})
    notes = ({"annotations": [1]}, {"annotations": [2]})
    assert message_of(*notes)["annotations"] == [1, 2]


@pytest.mark.parametrize(
    "idle", [b"data:\n\n", b"data: \n\n", b"data:  [DONE] \n\n", b": ping\n\n"]
)
def test_assembly_takes_an_event_without_data_for_none(idle: bytes) -> None:
    read_with = assemble(PATHS[True], idle + stream({"content": "a"}) + idle, streamed=True)
    alone = assemble(PATHS[True], stream({"content": "a"}), streamed=True)
    assert read_with.readable
    assert read_with.skeleton == alone.skeleton


@pytest.mark.parametrize("index", [0, 1])
def test_assembly_finds_no_prompt_in_two_that_differ(index: int) -> None:
    def begun(ids: list[int], index: int) -> bytes:
        choice = {"index": index, "delta": {"content": "a"}, "finish_reason": None}
        return sse({"prompt_token_ids": ids, "choices": [choice]})

    first = begun([1, 2], 0)
    assert assemble(PATHS[True], first + begun([1, 2], index) + DONE, streamed=True).readable
    assert not assemble(PATHS[True], first + begun([1, 3], index) + DONE, streamed=True).readable
