"""Each reason for which an answer is not all that the engine sampled."""

from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.answers.assembled import Assembled, Part
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.recording.verdict import Judged, judge
from support.records.vllm_recordings import load


def recorded(name: str) -> Assembled:
    exchange = load()[name]
    headers = {key.lower(): value for key, value in exchange.headers}
    streamed = "event-stream" in headers.get("content-type", "")
    return assemble(exchange.path, exchange.body, streamed=streamed, status=exchange.status)


def judged(answer: Assembled, **how: Any) -> Judged:
    return judge(answer, **{"status": 200, "complete": True, **how})


def answer_of(*parts: Part, count: int | None, **fields: Any) -> Assembled:
    return Assembled(skeleton=b"{}", parts=list(parts), completion_tokens=count, **fields)


def part(ids: int, logprobs: int | None = None, finish: str | None = "stop") -> Part:
    numbers = [-1.0] * (ids if logprobs is None else logprobs)
    return Part(0, [1], list(range(ids)), [*numbers], finish_reason=finish)


COMPLETE = [
    "default/chat_token_ids_logprobs",
    "default/chat_n2_token_ids_logprobs",
    "default/chat_stream_token_ids_logprobs_usage",
    "default/chat_stream_n2_token_ids_usage",
    "default/chat_stream_interval3",
    "default/chat_stop_stream",
    "default/chat_eos_forced_stream",
    "default/chat_tools_named_stream",
    "default/comp_echo_logprobs",
    "default/comp_token_in_batch_n2_stream",
    "devmode/comp_trl_generate",
    "reload/r6_chat_after",
]


@pytest.mark.parametrize("name", COMPLETE)
def test_verdict_is_complete_for_recorded_whole_responses(name: str) -> None:
    answer = recorded(name)
    assert judged(answer) == Judged([], [[] for _ in answer.parts])


def test_verdict_counts_a_null_logprob_as_a_logprob() -> None:
    one = part(2)
    one.logprobs[0] = None
    assert judged(answer_of(one, count=2)).trace == []


def test_verdict_is_complete_for_an_empty_choice_if_the_usage_agrees() -> None:
    assert judged(answer_of(part(0), count=0)) == Judged([], [[]])
    assert judged(answer_of(part(0), part(2), count=2)).trace == []


def test_verdict_reports_caller_gone() -> None:
    found = judged(recorded("extra/client_abort_stream"), complete=False, caller_gone=True)
    assert found.parts == [["caller_gone", "unfinished"]]


def test_verdict_is_complete_if_the_caller_left_after_the_last_token() -> None:
    answer = recorded("default/chat_stream_token_ids_logprobs_usage")
    assert judged(answer, caller_gone=True).trace == []


def test_verdict_reports_worker_broke_off_for_a_cut_stream() -> None:
    answer = recorded("default/abort_midstream")
    assert judged(answer, complete=False).trace == ["worker_broke_off", "unfinished"]


def test_verdict_reports_worker_broke_off_without_done() -> None:
    body = load()["default/chat_stream_token_ids_logprobs_usage"].body
    cut = body.removesuffix(b"data: [DONE]\n\n")
    answer = assemble("/v1/chat/completions", cut, streamed=True)
    assert judged(answer) == Judged(["worker_broke_off"], [["worker_broke_off"]])


def test_verdict_of_no_response_names_the_side_that_left() -> None:
    nothing = assemble("/v1/chat/completions", b"", streamed=False)
    assert "worker_broke_off" in judged(nothing, status=0, complete=False).trace
    assert "caller_gone" in judged(nothing, status=0, complete=False, caller_gone=True).trace


@pytest.mark.parametrize("name", ["default/err_unknown_model_chat", "apikey/auth_wrong"])
def test_verdict_reports_error_answer(name: str) -> None:
    found = judged(recorded(name), status=load()[name].status)
    assert found == Judged(["error_answer"], [])


def test_verdict_reports_error_answer_with_status_200() -> None:
    answer = assemble("/v1/chat/completions", b'{"error":"no"}', streamed=False)
    assert "error_answer" in judged(answer).trace


@pytest.mark.parametrize(
    "name", ["crash/kill9_worker_stream", "crash/kill9_worker_messages_stream"]
)
def test_verdict_reports_error_event(name: str) -> None:
    found = judged(recorded(name))
    assert found.trace[0] == "error_event"
    assert "worker_broke_off" not in found.trace


@pytest.mark.parametrize(
    "name", ["devmode/mid_stream_pause_abort", "extra/comp_aborted", "crash/sigterm_api_stream"]
)
def test_verdict_reports_aborted(name: str) -> None:
    assert "aborted" in judged(recorded(name)).trace


def test_verdict_reports_aborted_per_choice() -> None:
    answer = answer_of(part(2), part(1, finish="abort"), count=3)
    assert judged(answer) == Judged(["aborted"], [[], ["aborted"]])


def test_verdict_reports_unfinished_per_choice() -> None:
    answer = answer_of(part(2), part(1, finish=None), count=3)
    assert judged(answer) == Judged(["unfinished"], [[], ["unfinished"]])


def test_verdict_reports_token_ids_missing() -> None:
    assert judged(recorded("default/chat_logprobs")).parts == [["token_ids_missing"]]
    both = judged(recorded("default/chat_plain"))
    assert both.trace == ["token_ids_missing", "logprobs_missing"]


@pytest.mark.parametrize("name", ["default/responses_stream", "default/messages_plain"])
def test_verdict_reports_token_ids_missing_for_apis_without_tokens(name: str) -> None:
    assert judged(recorded(name)) == Judged(["token_ids_missing"], [])


def test_verdict_reports_logprobs_missing() -> None:
    assert judged(recorded("default/chat_token_ids")).parts == [["logprobs_missing"]]


def test_verdict_reports_usage_missing() -> None:
    answer = recorded("default/chat_stream_token_ids")
    assert judged(answer).parts == [["logprobs_missing", "usage_missing"]]
    answer = recorded("default/chat_stream_token_ids_logprobs_usage")
    assert judged(msgspec.structs.replace(answer, completion_tokens=None)).trace == [
        "usage_missing"
    ]


def test_verdict_reports_counts_differ_within_a_choice() -> None:
    assert judged(answer_of(part(3, 2), count=3)).parts == [["counts_differ"]]


def test_verdict_reports_counts_differ_from_the_usage() -> None:
    found = judged(answer_of(part(2), part(1), count=4))
    assert found.parts == [["counts_differ"], ["counts_differ"]]


def test_verdict_reports_counts_differ_even_if_the_sums_agree() -> None:
    found = judged(answer_of(part(3, 2), part(2, 3), count=5))
    assert found.parts == [["counts_differ"], ["counts_differ"]]


def test_verdict_reports_missing_tokens_of_one_empty_choice() -> None:
    found = judged(answer_of(part(2), part(0), count=4))
    assert found.parts == [["counts_differ"], ["token_ids_missing", "logprobs_missing"]]


def test_verdict_reports_unreadable() -> None:
    body = load()["default/chat_stream_token_ids_logprobs_usage"].body
    answer = assemble("/v1/chat/completions", body.replace(b'"id"', b'"id', 1), streamed=True)
    assert "unreadable" in judged(answer).trace


def test_verdict_reports_too_large_and_capture_failed() -> None:
    answer = recorded("default/chat_token_ids_logprobs")
    assert judged(answer, too_large=True) == Judged(["too_large"], [["too_large"]])
    assert judged(answer, failed=True) == Judged(["capture_failed"], [["capture_failed"]])
    nothing = assemble("/v1/messages", b"", streamed=False)
    assert "capture_failed" in judged(nothing, failed=True).trace
