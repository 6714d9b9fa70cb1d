"""COMPLETE means trainable, for any response: trajectories and exports agree with the verdict."""

import re
from random import Random
from typing import Any, get_args

import msgspec
import pytest
from gateway_plugins.trace_capture.answers.assembly import assemble
from gateway_plugins.trace_capture.recording.asked import Asked
from gateway_plugins.trace_capture.recording.head import Head
from gateway_plugins.trace_capture.recording.public_trace import trace_of
from gateway_plugins.trace_capture.recording.record import Record
from gateway_plugins.trace_capture.recording.verdict import judge
from gateway_plugins.trace_capture.sequences.trajectories import trajectories
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT
from support.records.random_answers import answers, events, framed, some

from gateway import Reason, Trace

PATHS = {True: "/v1/chat/completions", False: "/v1/completions"}


def recorded(body: bytes, *, chat: bool, streamed: bool) -> Trace:
    """The trace of a response that came whole."""
    answer = assemble(PATHS[chat], body, streamed=streamed)
    judged = judge(answer, Asked(), status=200, complete=True)
    head = Head(
        reasons=judged.trace,
        choice_reasons=judged.parts,
        usage=answer.usage,
        times=[None] * 6,
    )
    return trace_of(Record("t", "s", 1.0, "tiny", False, b"{}", answer, head))


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[bytes, bool, bool]:
    """A response with one of its promises perhaps broken, whether of a chat, and streamed."""
    chat, streamed = draw(st.booleans()), draw(st.booleans())
    answer = draw(answers(chat=chat))
    if draw(st.booleans()):
        _mend(answer, chat=chat)
    choice = draw(st.sampled_from(answer["choices"]))
    place = draw(st.sampled_from([answer, choice, choice["logprobs"], answer["usage"]]))
    if place and draw(st.booleans()):
        place.pop(draw(st.sampled_from(sorted(place))))
    if not streamed:
        return msgspec.json.encode(answer), chat, False
    try:
        chance = Random(draw(st.integers(0, 2**32)))
        data = [msgspec.json.encode(one).decode() for one in events(chance, answer, chat=chat)]
    except (KeyError, StopIteration):  # what is missing is needed to make a stream of it
        return msgspec.json.encode(answer), chat, False
    return framed(chance, [*data, "[DONE]"]), chat, True


def _mend(answer: dict[str, Any], *, chat: bool) -> None:
    """Make the random lists of an answer agree, with valid values."""
    for choice in answer["choices"]:
        choice["finish_reason"] = "stop"
        ids = choice["token_ids"] = choice["token_ids"] or [3]
        entry = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
        lists = {"tokens": ["a"] * len(ids), "token_logprobs": [-0.5] * len(ids)}
        choice["logprobs"] = {"content": [entry] * len(ids)} if chat else lists
    total = sum(len(choice["token_ids"]) for choice in answer["choices"])
    answer["usage"]["completion_tokens"] = total


@some
@given(spoilt())
def test_complete_choices_and_no_others_are_in_complete_trajectories(
    response: tuple[bytes, bool, bool],
) -> None:
    body, chat, streamed = response
    trace = recorded(body, chat=chat, streamed=streamed)
    found = trajectories("s", [trace])
    whole = {
        turn
        for one in found.trajectories
        if one.verdict == "COMPLETE"
        for turn in zip(one.trace_ids, one.choices, strict=True)
    }
    complete = {("t", place) for place, one in enumerate(trace.choices) if not one.reasons}
    assert whole == complete
    assert (trace.verdict == "COMPLETE") <= (len(whole) == len(trace.choices) > 0)
    if trace.verdict == "COMPLETE":
        assert not found.left_out
        for one in found.trajectories:
            masked = [lp for lp, mask in zip(one.logprobs, one.loss_mask, strict=True) if mask]
            assert masked
            assert None not in masked


@settings(some, max_examples=200)
@given(spoilt(), st.sampled_from([Asked(), Asked(1), Asked(1, 2), Asked(2), Asked(sampled=False)]))
def test_quick_look_at_a_whole_response_finds_no_reason_where_the_reasons_are_none(
    response: tuple[bytes, bool, bool], wanted: Asked
) -> None:
    body, chat, streamed = response
    answer = assemble(PATHS[chat], body, streamed=streamed)
    quick = judge(answer, wanted, status=200, complete=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judge.__globals__, "_is_whole", lambda *_: False)
        assert quick == judge(answer, wanted, status=200, complete=True)


def test_random_responses_are_both_complete_and_incomplete() -> None:
    """Else the test above would show nothing."""
    seen = set()

    @settings(some, max_examples=300)
    @given(spoilt())
    def collect(response: tuple[bytes, bool, bool]) -> None:
        body, chat, streamed = response
        seen.add((streamed, recorded(body, chat=chat, streamed=streamed).verdict))

    collect()
    assert seen >= {(True, "COMPLETE"), (False, "COMPLETE"), (True, "INCOMPLETE")}


def test_manual_lists_all_reasons() -> None:
    page = (ROOT / "docs/capture.md").read_text()
    table = page.partition("| reason | meaning |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(Reason))
