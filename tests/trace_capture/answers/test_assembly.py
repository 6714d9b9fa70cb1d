"""Plain answers: everything that an engine sent can be had again."""

import json
from typing import Any

import pytest
from gateway_plugins.trace_capture.answers.assembled import Assembled, Part
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.answers.rebuild import choices_of, whole
from gateway_plugins.trace_capture.codec import pack_ids, pack_logprobs, pack_texts
from hypothesis import given
from support.records.random_answers import JSON, answers, some
from support.records.trace_records import Turn, body_of, choices_in
from support.records.vllm_recordings import load

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def is_stream(name: str) -> bool:
    headers = {key.lower(): value for key, value in load()[name].headers}
    return "event-stream" in headers.get("content-type", "")


def plain_names() -> list[str]:
    names = []
    for name, exchange in load().items():
        text = exchange.body.decode(errors="replace")
        if text.startswith("{") and not is_stream(name) and not exchange.cut_short:
            names.append(name)
    return names


def record(path: str, answer: Any) -> Assembled:
    return assemble(path, json.dumps(answer).encode(), streamed=False)


@pytest.mark.parametrize("name", plain_names())
def test_assembly_restores_each_recorded_plain_response(name: str) -> None:
    exchange = load()[name]
    answer = assemble(exchange.path, exchange.body, streamed=False, status=exchange.status)
    assert whole(answer.skeleton, answer.parts) == json.loads(exchange.body)
    assert answer.readable
    assert answer.done


@some
@given(answers(chat=True))
def test_assembly_restores_any_chat_response(answer: JSON) -> None:
    check(CHAT, answer)


@some
@given(answers(chat=False))
def test_assembly_restores_any_completion_response(answer: JSON) -> None:
    check(COMPLETIONS, answer)


def check(path: str, answer: JSON) -> None:
    found = record(path, answer)
    assert whole(found.skeleton, found.parts) == answer
    for choice, sent in zip(choices_in(found), answer["choices"], strict=True):
        assert choice.token_ids == sent["token_ids"]
        assert (choice.message, choice.text) == (sent.get("message"), sent.get("text"))
        assert choice.finish_reason == sent["finish_reason"]
        assert choice.stop_reason == sent["stop_reason"]


def test_assembly_keeps_token_ids_and_logprobs_out_of_the_skeleton() -> None:
    answer = assemble(CHAT, load()["default/chat_n2_token_ids_logprobs"].body, streamed=False)
    assert b"-3.65" not in answer.skeleton
    assert b"610" not in answer.skeleton
    assert b"907" not in answer.skeleton
    assert [part.extra for part in answer.parts] == [b"", b""]


def test_assembly_keeps_null_logprobs_in_place() -> None:
    entry = {"token": "a", "logprob": None, "bytes": [97], "top_logprobs": []}
    scores = {"content": [{**entry, "logprob": -1.0}, entry, {**entry, "logprob": -9999.0}]}
    answer = record(CHAT, {"choices": [{"index": 0, "logprobs": scores, "token_ids": [1, 2, 3]}]})
    assert choices_in(answer)[0].logprobs == [-1.0, None, -9999.0]


def test_assembly_sorts_choices_and_restores_their_original_order() -> None:
    sent = {"choices": [{"index": 1, "token_ids": [1]}, {"index": 0, "token_ids": [0]}]}
    answer = record(CHAT, sent)
    assert [(choice.index, choice.token_ids) for choice in choices_in(answer)] == [
        (0, [0]),
        (1, [1]),
    ]
    assert whole(answer.skeleton, answer.parts) == sent


def test_assembly_does_not_count_an_echoed_prompt_as_sampled() -> None:
    body = load()["default/comp_echo_logprobs"].body
    [choice] = choices_in(assemble(COMPLETIONS, body, streamed=False))
    assert (len(choice.prompt_token_ids), choice.token_ids) == (12, [422, 36])
    assert choice.logprobs == [-2.390371084213257, -1.8902000188827515]
    assert choice.tokens == [" F", ">"]
    assert choice.top_logprobs == [{" F": choice.logprobs[0]}, {">": choice.logprobs[1]}]
    assert len(choice.prompt_logprobs or []) == 12


def test_assembly_keeps_token_texts_and_alternatives() -> None:
    body = load()["default/chat_logprobs_tokens_as_ids"].body
    [choice] = choices_in(assemble(CHAT, body, streamed=False))
    assert (choice.tokens or [])[0] == "token_id:753"
    assert len(choice.top_logprobs or []) == 8


def test_assembly_gives_each_chat_choice_the_prompt_logprobs() -> None:
    sent = {
        "choices": [{"token_ids": [1]}, {"token_ids": [2]}],
        "prompt_logprobs": [None, {"1": 2}],
    }
    answer = record(CHAT, sent)
    assert [choice.prompt_logprobs for choice in choices_in(answer)] == [[None, {"1": 2}]] * 2
    assert whole(answer.skeleton, answer.parts) == sent


@pytest.mark.parametrize(
    ("extra", "version"),
    [
        ({"weight_version": 7}, 7),
        ({"weight_version": "step-7"}, "step-7"),
        ({"metadata": {"weight_version": "default"}}, "default"),
        ({"choices": [{"meta_info": {"weight_version": "3"}}]}, "3"),
        ({"choices": [{}, {"weight_version": 4}]}, 4),
        ({"weight_version": True}, None),
        ({"weight_version": None}, None),
    ],
)
def test_assembly_finds_the_weight_version(extra: JSON, version: int | str | None) -> None:
    sent = {"choices": [{"index": 0}], **extra}
    assert record(CHAT, sent).weight_version == version


def test_assembly_finds_routing_matrices_of_each_choice() -> None:
    choices = [{"index": 0, "routing_matrices": [[1]]}, {"index": 1, "routed_experts": "abc"}]
    found = choices_in(record(CHAT, {"choices": choices}))
    assert [choice.routing_matrices for choice in found] == [[[1]], "abc"]


@pytest.mark.parametrize("skeleton", [b"", b"[]", b"{", b"\xff", b'{"choices":5}'])
def test_assembly_recovers_token_ids_from_a_damaged_skeleton(skeleton: bytes) -> None:
    packed = pack_ids([1]), pack_ids([2]), pack_logprobs([-1.0]), pack_texts(["a"])
    part = Part(0, *packed, extra=b"{broken")
    assert choices_of(skeleton, [part])[0].token_ids == [2]
    assert whole(skeleton, [part]) in (None, {"choices": 5})


def test_assembly_rejects_a_negative_token_id() -> None:
    body = body_of(Turn([1], [[2, -1]]))
    assert not assemble("/v1/chat/completions", body, streamed=False).readable
