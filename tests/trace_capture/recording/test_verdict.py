"""Each reason for which an answer is not all that a trace promises."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.answers.assembled import Assembled, Part, are_logprobs
from gateway_plugins.trace_capture.answers.assembly import api_at, assemble
from gateway_plugins.trace_capture.codec import pack_ids, pack_logprobs
from gateway_plugins.trace_capture.recording.asked import Asked, asked, sampling_params
from gateway_plugins.trace_capture.recording.verdict import Judged, judge
from support.records.vllm_recordings import MORE, load

from gateway import Reason

RECORDED = {**load(), **load(MORE)}


def recorded(name: str) -> Assembled:
    exchange = RECORDED[name]
    headers = {key.lower(): value for key, value in exchange.headers}
    streamed = "event-stream" in headers.get("content-type", "")
    return assemble(exchange.path, exchange.body, streamed=streamed, status=exchange.status)


def asked_in(name: str) -> Asked:
    exchange = RECORDED[name]
    body = exchange.request_body
    return asked(api_at(exchange.path), body, sampling_params(body, {}, {}))


def judged(answer: Assembled, wanted: Asked | None = None, **how: Any) -> Judged:
    return judge(answer, wanted or Asked(), **{"status": 200, "complete": True, **how})


def answer_of(*parts: Part, count: int | None, **fields: Any) -> Assembled:
    return Assembled(skeleton=b"{}", parts=list(parts), completion_tokens=count, **fields)


def part(ids: int, logprobs: int | None = None, finish: str | None = "stop") -> Part:
    numbers = [-1.0] * (ids if logprobs is None else logprobs)
    packed = pack_ids([1]), pack_ids(range(ids)), pack_logprobs(numbers)
    return Part(0, *packed, finish_reason=finish)


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
    assert judged(answer, asked_in(name)) == Judged([], [[] for _ in answer.parts])


@pytest.mark.parametrize(
    "name", ["thinking/chat_not_included", "thinking/chat_not_included_stream"]
)
def test_verdict_reports_reasoning_excluded(name: str) -> None:
    """Both ids and logprobs were requested; the request itself is why they did not come."""
    found = judged(recorded(name), asked_in(name))
    missing: list[Reason] = ["usage_missing"] if name.endswith("stream") else []
    assert set(found.trace) == {"reasoning_excluded", *missing}


def test_verdict_of_included_reasoning_is_as_of_any_other() -> None:
    for value, hides in (("true", False), ("null", False), ("false", True), ('"no"', True)):
        body = b'{"include_reasoning":%b}' % value.encode()
        assert asked(None, body, {}).hides_reasoning is hides
    assert judged(answer_of(part(2), count=2), Asked(hides_reasoning=True)).trace == []


def test_verdict_reports_aborted_before_the_first_token() -> None:
    chat = recorded("multi/chat_aborted_before_first_stream")
    assert judged(chat, aborted=True) == Judged(["aborted"], [["aborted"]])
    none = answer_of(count=0, streamed=True)
    assert judged(none, Asked(prompts=1), aborted=True) == Judged(["aborted"], [])


@pytest.mark.parametrize("value", [None, -9999.0, -1e6, float("-inf"), float("nan"), 0.5, 7])
def test_verdict_reports_logprobs_invalid(value: float | None) -> None:
    one = part(3)
    one.are_logprobs = are_logprobs([-1.0, value, -1.0])
    assert judged(answer_of(one, count=3)).trace == ["logprobs_invalid"]


@pytest.mark.parametrize("value", [0, -0.0, 1e-7, -87.3, -1, -9998.5])
def test_verdict_is_complete_for_any_logarithm_of_a_probability(value: float) -> None:
    one = part(3)
    one.are_logprobs = are_logprobs([-1.0, value, -1.0])
    assert judged(answer_of(one, count=3)).trace == []


@pytest.mark.parametrize("finish", ["length", "stop", "tool_calls"])
def test_verdict_reports_token_ids_missing_for_a_choice_without_tokens(finish: str) -> None:
    empty: list[Reason] = ["token_ids_missing", "logprobs_missing"]
    assert judged(answer_of(part(0, finish=finish), count=0)) == Judged(empty, [empty])
    assert judged(answer_of(part(0, finish=finish), part(2), count=2)).parts == [empty, []]


def test_verdict_reports_prompt_ids_missing_per_choice() -> None:
    without = part(2)
    without.packed_prompt = b""
    found = judged(answer_of(part(1), without, count=3))
    assert found == Judged(["prompt_ids_missing"], [[], ["prompt_ids_missing"]])


def test_verdict_reports_prompt_ids_missing_for_a_batch_of_chats() -> None:
    assert "prompt_ids_missing" in judged(recorded("default/chat_batch")).trace


@pytest.mark.parametrize("count", [2, 5])
def test_verdict_reports_counts_differ_from_the_usage_of_the_prompt(count: int) -> None:
    two = [part(1), part(1)]
    two[1].index, two[1].packed_prompt = 1, pack_ids([4, 5])
    answer = answer_of(*two, count=2)
    answer.prompt_tokens = 3
    assert judged(answer, Asked(prompts=2)).trace == []
    answer.prompt_tokens = count
    assert judged(answer, Asked(prompts=2)).trace == ["counts_differ"]


def test_verdict_counts_a_prompt_once_for_all_its_choices() -> None:
    answer = answer_of(part(1), part(1), count=2)
    answer.parts[1].index, answer.prompt_tokens = 1, 1
    assert judged(answer, Asked(prompts=1, choices=2)).trace == []


@pytest.mark.parametrize(
    "params",
    [
        {"use_beam_search": True},
        {"use_beam_search": "yes"},
        {"best_of": 3},
        {"best_of": "4", "n": 2},
    ],
)
def test_verdict_reports_not_a_sample(params: dict[str, object]) -> None:
    found = judged(answer_of(part(2), count=2), asked(None, b"", params))
    assert found == Judged(["not_a_sample"], [["not_a_sample"]])


@pytest.mark.parametrize(
    "params", [{"use_beam_search": False}, {"best_of": 2, "n": 2}, {"n": "x"}, {"best_of": None}]
)
def test_verdict_is_complete_if_all_that_was_sampled_is_returned(params: dict[str, object]) -> None:
    assert judged(answer_of(part(2), count=2), asked(None, b"", params)).trace == []


@pytest.mark.parametrize(
    ("path", "body", "prompts"),
    [
        ("/v1/chat/completions", b'{"messages":[]}', 1),
        ("/v1/completions", b'{"prompt":"a"}', 1),
        ("/v1/completions", b'{"prompt":[5,6]}', 1),
        ("/v1/completions", b'{"prompt":["a","b","c"]}', 3),
        ("/v1/completions", b'{"prompt":[[5,6],[7]]}', 2),
        ("/v1/chat/completions/batch", b'{"messages":[[{}],[{}]]}', 2),
        ("/v1/chat/completions/batch", b'{"messages":7}', 1),
        ("/v1/completions", b"{", 1),
        ("/v1/messages", b'{"messages":[]}', 0),
    ],
)
def test_asked_counts_the_prompts_of_a_request(path: str, body: bytes, prompts: int) -> None:
    assert asked(api_at(path), body, {"n": 2}) == Asked(prompts, 2)
    assert asked(api_at(path), body, {"seed": 2}) == Asked(prompts, 1)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions?a=/v1/",
        "/some/v1/chat/completions",
        "/v1/some/v1/chat/completions",
        "/v1/v1/chat/completions",
    ],
)
def test_api_is_told_by_what_follows_the_last_version(path: str) -> None:
    api = api_at(path)
    assert api is not None
    assert api.name == "chat"


ABORTED_BEFORE: Mapping[str, list[dict[str, Any]]] = {
    "chat": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
    "completions": [],
}


@pytest.mark.parametrize("with_usage", [True, False])
@pytest.mark.parametrize("api", ABORTED_BEFORE)
def test_verdict_reports_unfinished_for_a_stream_aborted_before_its_first_token(
    api: str, with_usage: bool
) -> None:
    """As vLLM ends it: chat has an event with the role, completions have no event of a choice."""
    path = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}[api]
    usage = {"prompt_tokens": 3, "completion_tokens": 0} if with_usage else None
    events: list[dict[str, Any]] = [{"choices": [one]} for one in ABORTED_BEFORE[api]]
    events.append({"choices": [], "usage": usage})
    body = b"".join(b"data: %b\n\n" % msgspec.json.encode(event) for event in events)
    found = judged(assemble(path, body + b"data: [DONE]\n\n", streamed=True), Asked(prompts=1))
    without: list[Reason] = [] if with_usage or api == "completions" else ["usage_missing"]
    assert found.trace == ["unfinished", *without]


def test_verdict_reports_unfinished_if_nothing_came_of_a_requested_choice() -> None:
    answer = answer_of(part(2), count=2)
    assert judged(answer, Asked(prompts=1, choices=2)) == Judged(["unfinished"], [[]])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_verdict_reports_counts_differ_within_an_event(path: str) -> None:
    """Ids without logprobs, and logprobs without ids: their sums alone agree."""
    chat = {"content": [{"token": "a", "logprob": -1.0}]}
    scores = chat if "chat" in path else {"tokens": ["a"], "token_logprobs": [-1.0]}
    one = {"index": 0, "finish_reason": None}
    events: list[dict[str, Any]] = [
        {"choices": [{**one, "token_ids": [1]}]},
        {"choices": [{**one, "logprobs": scores}]},
        {"choices": [{**one, "token_ids": [2], "logprobs": scores, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    ]
    events[0]["choices"][0]["prompt_token_ids"] = [7]
    if "chat" in path:
        events[0]["prompt_token_ids"] = events[0]["choices"][0].pop("prompt_token_ids")
    body = b"".join(b"data: %b\n\n" % msgspec.json.encode(event) for event in events)
    found = judged(assemble(path, body + b"data: [DONE]\n\n", streamed=True))
    assert found.trace == ["counts_differ"]


def test_verdict_reports_caller_gone() -> None:
    found = judged(recorded("extra/client_abort_stream"), complete=False, caller_gone=True)
    assert found.parts == [["caller_gone", "unfinished"]]


def test_verdict_is_complete_if_the_caller_left_after_the_last_token() -> None:
    answer = recorded("default/chat_stream_token_ids_logprobs_usage")
    assert judged(answer, caller_gone=True).trace == []


def test_verdict_reports_worker_broke_off_for_a_cut_stream() -> None:
    answer = recorded("default/abort_midstream")
    assert judged(answer, complete=False).trace == ["worker_broke_off", "unfinished"]


def test_verdict_goes_by_finish_reasons_and_not_by_done() -> None:
    body = load()["default/chat_stream_token_ids_logprobs_usage"].body
    cut = body.removesuffix(b"data: [DONE]\n\n")
    answer = assemble("/v1/chat/completions", cut, streamed=True)
    assert judged(answer) == Judged([], [[]])
    assert judged(answer, complete=False, caller_gone=True) == Judged([], [[]])


def test_verdict_names_an_abort_of_a_response_without_choices() -> None:
    answer = assemble("/v1/messages", b'{"type":"message","content":[]}', streamed=False)
    assert "aborted" in judged(answer, aborted=True).trace


def test_verdict_of_a_stream_without_choices_goes_by_what_it_says_of_its_end() -> None:
    answer = assemble("/inference/v1/generate", b'data: {"token_ids":[1]}\n\n', streamed=True)
    cut = judged(answer, complete=False, finished=False)
    left = judged(answer, complete=False, finished=False, caller_gone=True)
    assert (cut.trace, left.trace) == (["worker_broke_off"], ["caller_gone"])
    message = b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
    ended = assemble("/v1/messages", message, streamed=True)
    assert judged(ended, complete=False, finished=True).trace == ["token_ids_missing"]


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
    for finish in ("abort", "error"):
        answer = answer_of(part(2), part(1, finish=finish), count=3)
        assert judged(answer) == Judged(["aborted"], [[], ["aborted"]])


def test_verdict_reports_unfinished_per_choice() -> None:
    answer = answer_of(part(2), part(1, finish=None), count=3)
    assert judged(answer) == Judged(["unfinished"], [[], ["unfinished"]])


def test_verdict_reports_token_ids_missing() -> None:
    found = judged(recorded("default/chat_logprobs"))
    assert found.parts == [["prompt_ids_missing", "token_ids_missing"]]
    all_three = judged(recorded("default/chat_plain"))
    assert all_three.trace == ["prompt_ids_missing", "token_ids_missing", "logprobs_missing"]


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
