"""What is wrong with the traces of one kind of call, by their own verdicts."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from gateway import Trace, error_message
from gateway_plugins.trace_capture.cli.doctor import advice
from gateway_plugins.trace_capture.cli.doctor.doors import Answer
from gateway_plugins.trace_capture.cli.doctor.kinds import TRANSLATED, Kind
from gateway_plugins.trace_capture.cli.doctor.results import Check, Difference, Problem, Verdict
from gateway_plugins.trace_capture.sequences.divergence import divergence
from gateway_plugins.trace_capture.training.advice import advice_on
from gateway_plugins.trace_capture.training.hours import causes

FORKS = "prefix_differs"

NOBODY = "no worker"
"""Stands for the worker of calls that none took."""

_NO_SUCH_API = frozenset({403, 404, 405, 501})
"""403: vLLM says so of what it serves only with `--enable-scale-out`."""


class Asked:
    """The calls of one kind: the answers in order, and the traces in order, as far as they came."""

    def __init__(self, kind: Kind, model: str) -> None:
        self.kind = kind
        self.model = model
        self.answers: list[Answer] = []
        self.traces: list[Trace] = []


def judge(asked: Asked, worker: str, names: Sequence[str], *, chats: bool) -> list[Check]:
    """Return the check of a kind, one for each worker that took some of its calls.

    `worker` is the one that took all, "" if the traces say who it was. `names` are those by which a
    worker may call its model. `chats`: chats are answered, so an API that is not is no mistake.
    """
    kind, last = asked.kind, asked.answers[-1]
    took = list(dict.fromkeys(worker or trace.worker or NOBODY for trace in asked.traces))
    took = took or [worker or NOBODY]
    if chats and kind.api != "chat" and last.status in _NO_SUCH_API:
        return [_not_served(asked, one, f"status {last.status}") for one in took]
    if kind.api in TRANSLATED and asked.traces and _passed_on(asked.traces[-1]):
        return [_not_served(asked, one, "the plugin translate is not on") for one in took]
    found = list(_problems(asked, names))
    return [
        _check(asked, one, [problem for turn, problem in found if _who(asked, worker, turn) == one])
        for one in took
    ]


def _who(asked: Asked, worker: str, turn: int) -> str:
    """Return the worker that took a turn; the last one that answered if it has left no trace."""
    traces = asked.traces[: turn + 1]
    return worker or (traces and traces[-1].worker) or NOBODY


def _check(asked: Asked, worker: str, problems: Sequence[Problem]) -> Check:
    found = tuple({one.reason: one for one in reversed(problems)}.values())[::-1]
    if any(one.reason != FORKS for one in found):
        return _told(asked, worker, "INCOMPLETE", "", found)
    return _told(asked, worker, "FORKS" if found else "COMPLETE", _note(asked), found)


def _not_served(asked: Asked, worker: str, note: str) -> Check:
    return _told(asked, worker, "NOT SERVED", note)


def _told(
    asked: Asked, worker: str, verdict: Verdict, note: str, problems: tuple[Problem, ...] = ()
) -> Check:
    sampled = sum(len(one.token_ids) for trace in asked.traces for one in trace.choices)
    return Check(
        worker=worker,
        model=asked.model,
        kind=asked.kind.name,
        verdict=verdict,
        tokens=sampled,
        note=note,
        problems=problems,
    )


def _passed_on(trace: Trace) -> bool:
    return trace.translated_from is None and "not_translated" not in trace.reasons


def _note(asked: Asked) -> str:
    if asked.kind.calls and not any(_calls_tool(trace) for trace in asked.traces):
        return "the model called no tool"
    return ""


def _calls_tool(trace: Trace) -> bool:
    return any((one.message or {}).get("tool_calls") for one in trace.choices)


def _problems(asked: Asked, names: Sequence[str]) -> Iterator[tuple[int, Problem]]:
    """Yield the problems, each with the number of the turn (from 0) that has it."""
    answer, last = asked.answers[-1], len(asked.answers) - 1
    if answer.late:
        what = "no whole answer came"
        yield last, Problem(reason="no_answer", what=what, what_to_do=advice.NO_ANSWER)
    elif len(asked.traces) <= last:
        yield last, _without_trace(answer)
    for turn, trace in enumerate(asked.traces):
        for reason in causes(trace.reasons):
            if not (answer.late and reason == "caller_gone"):
                yield turn, _of_reason(reason, trace, answer)
        told = (trace.raw_response or {}).get("model")
        if isinstance(told, str) and told and told not in names:
            what = f"asked for {asked.model}, answered by {told[:200]}"
            yield turn, Problem(reason="other_model", what=what, what_to_do=advice.OTHER_MODEL)
    yield from _forks(asked.traces)


def _without_trace(answer: Answer) -> Problem:
    if answer.status == 200:
        return Problem(reason="no_trace", what="no trace", what_to_do=advice.NO_TRACE)
    what = _refusal(answer)
    to_do = advice.advice_on_error("error_answer", what)
    return Problem(reason="error_answer", what=what, what_to_do=to_do)


def _refusal(answer: Answer) -> str:
    return f"{answer.status or 'no response'}: {answer.error or 'no message'}"


def _of_reason(reason: str, trace: Trace, answer: Answer) -> Problem:
    what, to_do = advice.WHAT.get(reason, reason), advice_on(reason)
    if reason in ("error_answer", "error_event"):
        said = _error_in(trace)
        if reason == "error_answer":
            said = said or answer.error
            what = f"{trace.delivery.status or answer.status}: {said or 'no message'}"
        elif said:
            what = f"{what}: {said}"
        to_do = advice.advice_on_error(reason, said)
    elif detail := _detail(reason, trace):
        what = f"{what}: {detail[:500]}"
    return Problem(reason=reason, what=what, what_to_do=to_do)


def _error_in(trace: Trace) -> str:
    response = trace.raw_response or {}
    return (error_message(response.get("error")) or trace.error or "")[:500]


def _detail(reason: str, trace: Trace) -> str:
    if reason == "counts_differ":
        return _counts(trace)
    if reason == "logprobs_invalid":
        return _bad_logprob(trace)
    return ""


def _counts(trace: Trace) -> str:
    usage: dict[str, Any] = trace.usage or {}
    choices = trace.choices
    prompts = sum(len(one.prompt_token_ids) for one in choices if one.index == 0)
    return (
        f"{sum(len(one.token_ids) for one in choices)} token ids, "
        f"{sum(len(one.logprobs) for one in choices)} logprobs, "
        f"{usage.get('completion_tokens', 'no')} counted; prompt: {prompts} token ids, "
        f"{usage.get('prompt_tokens', 'no')} counted"
    )


def _bad_logprob(trace: Trace) -> str:
    for choice in trace.choices:
        for at, value in enumerate(choice.logprobs):
            if value is None or not -9999 < value <= 0:
                shown = "null" if value is None else str(value)
                return f"{shown} at token {at} of the completion"
    return ""


def _forks(traces: Sequence[Trace]) -> Iterator[tuple[int, Problem]]:
    """Yield the first turn whose prompt leaves the sequence of the turn before, if one does."""
    for turn, (parent, child) in enumerate(pairwise(traces), start=2):
        sequence = [*parent.prompt_token_ids, *parent.completion_token_ids]
        prompt = child.prompt_token_ids
        if not parent.completion_token_ids or not prompt or prompt[: len(sequence)] == sequence:
            continue
        left = divergence(parent, 0, child)
        difference = Difference(
            turn=turn,
            at=left.at,
            expected_id=left.expected_id,
            found_id=left.found_id,
            expected_text=left.expected_text,
            found_text=left.found_text,
            cause=left.cause,
            tito=_carried_as_text(child),
        )
        what = f"the prompt of turn {turn} leaves the tokens of turn {turn - 1} ({left.cause})"
        if difference.tito is not None:
            what = f"{what}; tito: {difference.tito}"
        to_do = advice.advice_on_difference(difference)
        yield (
            turn - 1,
            Problem(reason=FORKS, what=what, what_to_do=to_do, difference=difference),
        )
        return


def _carried_as_text(trace: Trace) -> str | None:
    """Return why `tito` has not made the prompt, None if it did or is off."""
    told = trace.metadata.get("tito")
    if not isinstance(told, dict) or told.get("prompt") != "by_engine":
        return None
    return str(told.get("reason"))[:500]
