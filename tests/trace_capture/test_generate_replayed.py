"""vLLM's generate through a gateway that captures: exact bytes for the caller, all tokens kept."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from support.records.vllm_recordings import RecordedExchange
from support.workers.playing import compare, naming
from trace_capture.test_engines_replayed import Theatre
from wire.test_generate import ALL, GENERATED, RECORDED, STREAMED, events_of, unasked, written

from gateway import Trace
from gateway.wire.apis.token_api import GENERATE

pytestmark = pytest.mark.usefixtures("kernel_of_module")

DONE = b"data: [DONE]\n\n"
SCORED = [one for one in GENERATED if b'"logprobs":{"content":' in one.body]
"""Those in which the engine was asked for logprobs: no others can be made from what it said."""

REFUSED = [one for one in RECORDED.values() if one.path in GENERATE.paths and one.status != 200]


@pytest.fixture(scope="module")
def theatre(kernel_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    with Theatre(tmp_path_factory.mktemp("generate")) as theatre:
        theatre.open()
        yield theatre


class Sampled(msgspec.Struct):
    """What a recording has of one choice."""

    ids: list[int] = []
    logprobs: list[float] = []
    finish_reason: str = ""
    text: str = ""
    spans: list[dict[str, Any]] = []


def sampled(exchange: RecordedExchange) -> dict[int, Sampled]:
    found: dict[int, Sampled] = {}
    streamed = exchange in STREAMED
    for event in events_of(exchange.body) if streamed else [json.loads(exchange.body)]:
        for choice in event["choices"]:
            one = found.setdefault(choice["index"], Sampled())
            one.ids += choice["token_ids"]
            scores = (choice["logprobs"] or {}).get("content", [])
            one.logprobs += [entry["logprob"] for entry in scores]
            one.finish_reason = choice["finish_reason"] or one.finish_reason
            one.text += choice.get("text", "")
            one.spans = choice["weight_versions"] or one.spans
    return found


def told(exchange: RecordedExchange) -> RecordedExchange:
    """The same response if prompt ids and usage had been asked for."""
    asked = json.loads(exchange.request_body)
    prompt = asked["token_ids"]
    if exchange not in STREAMED:
        answer = json.loads(exchange.body)
        answer["prompt_token_ids"] = prompt
        return msgspec.structs.replace(exchange, body=written(answer))
    first, *rest = events_of(exchange.body)
    head = {name: first.pop(name) for name in ("request_id", "usage")}
    first = {**head, "prompt_token_ids": prompt, **first}
    if rest[-1:] and rest[-1]["choices"]:
        count = sum(len(one.ids) for one in sampled(exchange).values())
        usage = {
            "prompt_tokens": len(prompt),
            "total_tokens": len(prompt) + count,
            "completion_tokens": count,
        }
        mode = {"output_mode": first["output_mode"], "choices": []}
        rest.append({"request_id": head["request_id"], "usage": usage, **mode})
    events = [b"data: %b\n\n" % written(event) for event in (first, *rest)]
    return msgspec.structs.replace(exchange, body=b"".join([*events, DONE]))


def check_tokens(trace: Trace, exchange: RecordedExchange) -> None:
    wanted = sampled(exchange)
    assert (trace.dialect, trace.path) == ("generate", exchange.path)
    assert [choice.index for choice in trace.choices] == sorted(wanted)
    for choice in trace.choices:
        one = wanted[choice.index]
        assert choice.token_ids == one.ids
        assert choice.logprobs == one.logprobs
        assert choice.finish_reason == one.finish_reason
        assert (choice.text or "") == one.text
        assert msgspec.to_builtins(choice.weight_versions or []) == one.spans


@pytest.mark.parametrize("exchange", GENERATED, ids=lambda one: one.name)
def test_recorded_response_reaches_the_caller_as_it_came(
    theatre: Theatre, exchange: RecordedExchange
) -> None:
    """An engine that ignored what was injected: the trace says what it lacks."""
    with naming(exchange):
        said, trace, _ = theatre.play(exchange, exchange)
        compare(said, exchange)
        check_tokens(trace, exchange)
        aborted = b'"finish_reason":"abort"' in exchange.body
        reasons = set(trace.reasons)
        assert ("aborted" in reasons) is aborted
        if not aborted:
            assert ("prompt_ids_missing" in reasons) is (
                b'"prompt_token_ids":[' not in exchange.body
            )
            assert ("logprobs_missing" in reasons) is (exchange not in SCORED)
            assert ("usage_missing" in reasons) is (b'"usage":{' not in exchange.body)


def test_what_an_engine_tells_if_asked_has_the_recorded_form() -> None:
    """Else the next test would compare with something that no engine sends."""
    asked_all = [
        RECORDED[name] for name in ("random/generate_n4_stream", "devmode/generate_text_mode")
    ]
    assert [told(one).body for one in asked_all] == [one.body for one in asked_all]


@pytest.mark.parametrize("exchange", SCORED, ids=lambda one: one.name)
def test_capture_of_what_is_injected_is_complete_and_unseen(
    theatre: Theatre, exchange: RecordedExchange
) -> None:
    answer = told(exchange)
    asked = json.loads(exchange.request_body)
    for name in ("return_token_ids", "stream_options"):
        asked.pop(name, None)
    asked["sampling_params"].pop("logprobs")
    bare = msgspec.structs.replace(
        exchange, name=f"bare/{exchange.name}", request_body=written(asked)
    )
    with naming(exchange):
        said, trace, row = theatre.play(bare, answer)
        assert said.body == unasked(exchange, ALL)
        check_tokens(trace, exchange)
        assert all(choice.prompt_token_ids == asked["token_ids"] for choice in trace.choices)
        assert trace.raw_response is not None
        if exchange not in STREAMED:
            assert trace.raw_response == json.loads(answer.body)
        aborted = b'"finish_reason":"abort"' in exchange.body
        assert trace.reasons == (["aborted"] if aborted else [])
        counts = sum(len(choice.token_ids) for choice in trace.choices)
        assert (row.prompt_tokens, row.completion_tokens) == (len(asked["token_ids"]), counts)
        assert trace.sampling_params == {**asked["sampling_params"], "logprobs": 0}


@pytest.mark.parametrize("exchange", REFUSED, ids=lambda one: one.name)
def test_error_is_the_engine_s_own(theatre: Theatre, exchange: RecordedExchange) -> None:
    with naming(exchange):
        said, trace, _ = theatre.play(exchange, exchange)
        compare(said, exchange)
        assert trace.reasons == ["error_answer"]
        assert trace.error


def test_trajectory_says_which_weights_sampled_each_token(theatre: Theatre) -> None:
    exchange = RECORDED["generate/version_changes_n2_stream"]
    asked = msgspec.structs.replace(exchange, name="changes")
    _, trace, _ = theatre.play(asked, told(exchange))
    first, second = trace.choices
    assert first.weight_versions is not None
    assert trace.weight_version == trace.weight_versions.engine == "step-7"
    assert [(span.version, span.end) for span in first.weight_versions] == [
        ("step-7", 42),
        ("step-8", 110),
    ]

    url = f"/sessions/{trace.session_id}/trajectories"
    found = theatre.run(theatre.live.client.get(url)).json()["trajectories"]

    prompt = [None] * len(first.prompt_token_ids)
    for branch, change in zip(found, (42, 41), strict=True):
        assert branch["weight_versions"] == [
            *prompt,
            *["step-7"] * change,
            *["step-8"] * (110 - change),
        ]
        assert branch["verdict"] == "COMPLETE"
    assert second.token_ids != first.token_ids
