"""`Generate`: what the events of a response become, however they are merged."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from gateway_plugins.grpc.edge.answers import (
    BadAnswer,
    Begun,
    Broken,
    Unsupported,
    WorkerError,
)
from gateway_plugins.grpc.services.generate.answer import GenerateAnswer
from gateway_plugins.grpc.services.generate.request import Generation, Wanted
from hypothesis import given
from hypothesis import strategies as st
from support.grpc.generations import Said, heard
from support.grpc.in_process import MESSAGES

EVENT = MESSAGES.type("gateway.v1.GenerateEvent")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ALL = Wanted(token_ids=True, logprobs=True)


def answer_for(wanted: Wanted = ALL) -> GenerateAnswer:
    answer = GenerateAnswer(MESSAGES, time.monotonic())
    answer.expect(Generation("", bytes, wanted=wanted))
    answer.begin(Begun("w", "7", 2))
    return answer


def parsed(messages: Sequence[bytes]) -> list[Any]:
    return [EVENT.FromString(data) for data in messages]


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"id": "c1", "model": "m", "choices": choices, **more}).encode()


def token(text: str, logprob: float | None, token_id: int, index: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = {"token": text, "logprob": logprob, "bytes": [], "top_logprobs": []}
    scores = {"content": [entry]}
    return {
        "index": index,
        "delta": {"content": text},
        "token_ids": [token_id],
        "logprobs": scores,
    }


def end(index: int = 0, reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": {}, "finish_reason": reason, **more}


def all_of(answer: GenerateAnswer, *events: bytes) -> list[Any]:
    for event in events:
        answer.event(event)
    return parsed([*answer.take(), *answer.finish()])


TEXTS = st.text(max_size=3)
LOGPROBS = st.none() | st.floats(-50, 0)
PARTS = st.fixed_dictionaries(
    {
        "index": st.integers(0, 2),
        "text": TEXTS,
        "reasoning": TEXTS,
        "tokens": st.lists(st.tuples(st.integers(0, 2**32 - 1), LOGPROBS), max_size=3),
        "tool": st.none() | st.tuples(st.integers(0, 2), TEXTS),
        "take": st.booleans(),
        "reason": st.sampled_from([None, None, None, "stop", "length", "odd"]),
    }
)


NOTHING: dict[str, Any] = {
    "text": "",
    "reasoning": "",
    "tokens": [],
    "tool": None,
    "take": True,
    "reason": "stop",
}


def event_of(part: dict[str, Any]) -> bytes:
    delta: dict[str, Any] = {"content": part["text"], "reasoning": part["reasoning"]}
    if part["tool"] is not None:
        index, arguments = part["tool"]
        delta["tool_calls"] = [{"index": index, "function": {"arguments": arguments}}]
    entries = [{"token": "", "logprob": one} for _, one in part["tokens"]]
    choice = {
        "index": part["index"],
        "delta": delta,
        "token_ids": [one for one, _ in part["tokens"]],
        "logprobs": {"content": entries},
        "finish_reason": part["reason"],
    }
    return chunk(choice)


@given(st.lists(PARTS, max_size=12))
def test_any_split_into_messages_says_the_same(parts: list[dict[str, Any]]) -> None:
    first = {"index": 0, "delta": {}, "token_ids": [1], "logprobs": {"content": [{"logprob": -1}]}}
    firsts = [{**first, "index": index} for index in range(3)]
    expected = {index: Said(ids=[1], logprobs=[-1.0]) for index in range(3)}
    answer, made = answer_for(), list[bytes]()
    answer.event(chunk(*firsts))
    over = set[int]()
    for part in [*parts, *({**NOTHING, "index": index} for index in range(3))]:
        if part["index"] in over:
            continue
        one = expected[part["index"]]
        answer.event(event_of(part))
        one.text += part["text"]
        one.reasoning += part["reasoning"]
        one.ids += [token_id for token_id, _ in part["tokens"]]
        one.logprobs += [logprob for _, logprob in part["tokens"]]
        if part["tool"] is not None:
            one.add_tool(part["tool"][0], "", part["tool"][1])
        if part["reason"] is not None:
            one.finish.append((part["reason"], None))
            over.add(part["index"])
        if part["take"]:
            made += answer.take()
    answer.event(chunk(usage=USAGE))
    events = parsed([*made, *answer.take(), *answer.finish()])
    assert heard(events) == expected
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("start", "usage")
    assert (kinds.count("start"), kinds.count("finish"), kinds.count("usage")) == (1, 3, 1)


def test_what_has_come_since_the_last_message_is_one_delta() -> None:
    answer = answer_for()
    for place in range(4):
        answer.event(chunk(token("ab"[place % 2], -1.0, place, index=place % 2)))
    start, first, second = parsed(answer.take())
    assert (start.start.worker, start.start.weight_version, start.start.attempts) == ("w", "7", 2)
    assert (start.start.id, start.start.model) == ("c1", "m")
    assert (first.delta.index, first.delta.text, list(first.delta.token_ids)) == (0, "aa", [0, 2])
    assert (second.delta.index, second.delta.text) == (1, "bb")
    assert not first.delta.has_logprob
    assert answer.take() == []


def test_logprobs_that_are_missing_are_marked() -> None:
    values = [token("a", -0.5, 1), token("b", None, 2), {"index": 0, "token_ids": [3]}]
    [_, delta, *_] = all_of(
        answer_for(), *(chunk(one) for one in values), chunk(end(), usage=USAGE)
    )
    assert list(delta.delta.token_ids) == [1, 2, 3]
    assert list(delta.delta.logprobs) == [-0.5, 0, 0]
    assert list(delta.delta.has_logprob) == [True, False, False]


def test_infinite_logprobs_and_halves_of_characters_are_read() -> None:
    event = chunk(token("a", -0.5, 1)).replace(b"-0.5", b"-Infinity").replace(b'"a"', b'"\\ud83d"')
    last = chunk(end(), usage={**USAGE, "completion_tokens": 1})
    [_, delta, *_] = all_of(answer_for(), event, last)
    assert (delta.delta.text, list(delta.delta.has_logprob)) == ("\ufffd", [False])


def test_likeliest_tokens_stand_beside_each_token() -> None:
    tops = [
        {"token": "x", "logprob": -0.1, "bytes": [255], "id": 9},
        {"token": "token_id:753", "logprob": -2.0, "bytes": None},
        {"token": "y", "logprob": None},
    ]
    first = token("a", -0.5, 1)
    first["logprobs"]["content"][0]["top_logprobs"] = tops
    lists = {"tokens": ["c"], "token_logprobs": [-1.0], "top_logprobs": [{"c": -1.0, "d": -3.0}]}
    wanted = Wanted(token_ids=True, logprobs=True, top=2)
    second = {"index": 0, "text": "b", "token_ids": [2]}
    third = {"index": 0, "text": "c", "token_ids": [3], "logprobs": lists}
    events = (chunk(first), chunk(second), chunk(third), chunk(end(), usage=USAGE))
    [_, delta, *_] = all_of(answer_for(wanted), *events)
    found = [
        [(one.token, one.logprob, one.bytes, one.id) for one in place.tokens]
        for place in delta.delta.top
    ]
    assert found == [
        [("x", -0.1, b"\xff", 9), ("token_id:753", -2.0, b"", 753)],
        [],
        [("c", -1.0, b"", 0), ("d", -3.0, b"", 0)],
    ]


def test_only_what_was_asked_for_is_returned() -> None:
    told = token("a", -0.5, 1)
    told["delta"]["reasoning"] = "hm"
    plain = Wanted(text=False, reasoning=False)
    events = all_of(answer_for(plain), chunk(told, prompt_token_ids=[5]), chunk(end(), usage=USAGE))
    start, finish, _ = events
    assert not start.start.prompt_token_ids
    assert finish.WhichOneof("event") == "finish"


def test_finishes_have_the_word_and_the_match() -> None:
    ends = [
        end(0, "stop", stop_reason="."),
        end(1, "stop", stop_reason=0),
        end(2, "abort", stop_reason=None),
        end(3, "tool_calls", matched_stop=2),
        end(4, "new word", stop_reason=-1),
        {**end(5), "finish_reason": {"type": "length", "length": 3}},
        end(6, "content_filter", stop_reason=True),
    ]
    kind = EVENT.DESCRIPTOR.file.enum_types_by_name["FinishReason"]
    found = [
        (
            kind.values_by_number[one.finish.reason].name.removeprefix("FINISH_REASON_"),
            one.finish.raw_reason,
            one.finish.WhichOneof("matched"),
        )
        for one in all_of(answer_for(Wanted()), chunk(*ends, usage=USAGE))
        if one.WhichOneof("event") == "finish"
    ]
    assert found == [
        ("STOP", "stop", "stop"),
        ("STOP", "stop", "stop_token_id"),
        ("ABORT", "abort", None),
        ("TOOL_CALLS", "tool_calls", "stop_token_id"),
        ("OTHER", "new word", None),
        ("LENGTH", "length", None),
        ("CONTENT_FILTER", "content_filter", None),
    ]


def test_a_choice_goes_on_after_empty_reasons_and_ends_once() -> None:
    answer, made = answer_for(Wanted()), list[bytes]()
    for reason in ("", "null", "stop", "length", None):
        answer.event(chunk({**end(), "finish_reason": reason}, usage=USAGE))
        made += answer.take()
    found = parsed([*made, *answer.finish()])
    assert [one.finish.raw_reason for one in found if one.HasField("finish")] == ["stop"]


def test_usage_has_its_details() -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1, "accepted_prediction_tokens": None},
    }
    *_, last = all_of(answer_for(Wanted()), chunk(end(), usage={**USAGE, **details}))
    assert (last.usage.cached_tokens, last.usage.HasField("cached_tokens")) == (0, True)
    assert last.usage.reasoning_tokens == 1
    assert not last.usage.HasField("accepted_prediction_tokens")


def test_the_prompt_has_logprobs_of_its_own_tokens_and_the_likeliest() -> None:
    places = [
        None,
        {
            "728": {"logprob": -11.5, "rank": 840, "decoded_token": "el"},
            "935": {"logprob": -1.5, "rank": 1, "decoded_token": " L"},
        },
    ]
    body = chunk(
        {"index": 0, "message": {"content": ""}, "finish_reason": "stop"},
        prompt_token_ids=[46, 728],
        prompt_logprobs=places,
        usage=USAGE,
    )
    answer = answer_for(Wanted(prompt_logprobs=1))
    answer.plain(body)
    start, prompt, *_ = parsed(answer.take())
    assert not start.start.prompt_token_ids
    assert list(prompt.prompt_logprobs.logprobs) == [0, -11.5]
    assert list(prompt.prompt_logprobs.has_logprob) == [False, True]
    [_, top] = prompt.prompt_logprobs.top
    assert [(one.id, one.token, one.logprob) for one in top.tokens] == [(935, " L", -1.5)]


def test_large_answers_come_in_messages_that_clients_take() -> None:
    count = 1_500
    tops = [{"token": "x" * 200, "logprob": -1.0}] * 20
    entry = {"token": "x", "logprob": -1.0, "top_logprobs": tops}
    body = chunk(
        {
            "index": 0,
            "message": {"content": "é" * 600_000},
            "token_ids": list(range(count)),
            "logprobs": {"content": [entry] * count},
            "finish_reason": "stop",
        },
        usage=USAGE,
    )
    answer = answer_for(Wanted(token_ids=True, logprobs=True, top=20))
    answer.plain(body)
    made = answer.take()
    assert max(map(len, made)) < 4 * 1024 * 1024
    [said] = heard(parsed(made)).values()
    assert (said.text, said.ids) == ("é" * 600_000, list(range(count)))
    assert len(said.logprobs) == count


def test_comments_tell_that_the_call_waits_until_it_begins() -> None:
    answer = answer_for(Wanted())
    answer.comment()
    answer.comment()
    [notice] = parsed(answer.take())
    assert notice.notice.waited >= 0
    answer.event(chunk({"index": 0, "delta": {"content": "a"}}))
    answer.comment()
    assert [one.WhichOneof("event") for one in parsed(answer.take())] == ["start", "delta"]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [chunk(usage=USAGE)],
        [chunk({"index": 0, "delta": {"content": "a"}}, usage=USAGE)],
        [chunk(end())],
        [chunk(end(), {"index": 1, "delta": {}}, usage=USAGE)],
    ],
)
def test_a_response_that_is_not_whole_is_broken(events: list[bytes]) -> None:
    answer = answer_for(Wanted())
    for event in events:
        answer.event(event)
    answer.take()
    with pytest.raises(Broken):
        answer.finish()


NO_IDS = {"index": 0, "delta": {"content": "a"}, "token_ids": None, "logprobs": None}


@pytest.mark.parametrize(
    ("wanted", "events"),
    [
        (Wanted(token_ids=True), [chunk(NO_IDS)]),
        (Wanted(logprobs=True), [chunk(NO_IDS)]),
        (Wanted(prompt_token_ids=True), [chunk(NO_IDS)]),
        (Wanted(prompt_logprobs=0), [chunk(NO_IDS)]),
        (Wanted(token_ids=True), [chunk({**NO_IDS, "delta": {"reasoning": "a"}})]),
        (ALL, [chunk({**token("a", -1, 1), "token_ids": []})]),
        (Wanted(choices=2), [chunk(end(), usage=USAGE)]),
        (Wanted(token_ids=True), [chunk({**end(), "token_ids": [1]}, usage=USAGE)]),
        (Wanted(logprobs=True), [chunk(end(), usage=USAGE)]),
    ],
)
def test_a_worker_that_lacks_what_was_asked_for_is_named(
    wanted: Wanted, events: list[bytes]
) -> None:
    with pytest.raises(Unsupported):
        all_of(answer_for(wanted), *events)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b"{", BadAnswer),
        (b"[]", BadAnswer),
        (b"{}", BadAnswer),
        (b'{"choices": 1}', BadAnswer),
        (b'{"choices": [{"index": -1}]}', BadAnswer),
        (b'{"choices": [{"index": 0, "token_ids": [4294967296]}]}', BadAnswer),
        (b'{"choices": [{"index": 0, "text": "' + b"\xff" + b'"}]}', BadAnswer),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", BadAnswer),
        (b'{"error": {"message": "died", "code": 500}}', WorkerError),
    ],
)
def test_nonsense_and_errors_are_told_apart(event: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        answer_for(Wanted()).event(event)


def test_ids_are_found_where_other_engines_put_them() -> None:
    entry = {"token": "a", "logprob": -1.0, "id": 7}
    llamacpp = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry]}}
    fields = {"token_ids": [8]}
    litellm = {"index": 0, "text": "b", "provider_specific_fields": fields}
    odd = {"index": 0, "text": "c", "provider_specific_fields": {"token_ids": ["x"]}}
    wanted = Wanted(token_ids=True)
    events = (chunk(llamacpp), chunk(litellm), chunk(odd), chunk(end(), usage=USAGE))
    [_, delta, *_] = all_of(answer_for(wanted), *events)
    assert list(delta.delta.token_ids) == [7, 8]


def test_fragments_of_tool_calls_are_joined_by_their_calls() -> None:
    def calls(*fragments: dict[str, Any]) -> bytes:
        return chunk({"index": 0, "delta": {"tool_calls": list(fragments)}})

    answer = answer_for(Wanted())
    answer.event(calls({"index": 0, "id": "c1", "function": {"name": "now", "arguments": ""}}))
    answer.event(calls({"index": 0, "function": {"arguments": '{"a"'}}))
    answer.event(calls({"index": 1, "id": "c2", "function": {"name": "then"}}))
    answer.event(calls({"index": 0, "function": {"arguments": ":1}"}}))
    [_, delta] = parsed(answer.take())
    found = [(one.index, one.id, one.name, one.arguments) for one in delta.delta.tool_calls]
    assert found == [(0, "c1", "now", '{"a":1}'), (1, "c2", "then", "")]
    answer.event(calls({"index": 1, "function": {"arguments": {"b": 2}}}))
    [delta] = parsed(answer.take())
    assert delta.delta.tool_calls[0].arguments == '{"b":2}'
