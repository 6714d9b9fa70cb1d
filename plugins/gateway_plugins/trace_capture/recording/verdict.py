"""Judges whether a response has all that the engine sampled, with reasons if it does not."""

import msgspec

from gateway import Reason
from gateway_plugins.trace_capture.answers.assembled import Assembled, Part


class Judged(msgspec.Struct):
    """The reasons for each part, in the parts' order, and for the trace; empty means COMPLETE.

    A trace has all of its parts' reasons; a trace without parts is never COMPLETE.
    """

    trace: list[Reason]
    parts: list[list[Reason]]


def judge(
    answer: Assembled,
    *,
    status: int,
    complete: bool,
    caller_gone: bool = False,
    failed: bool = False,
    too_large: bool = False,
) -> Judged:
    """Judge a call's response.

    `status` is the response's, 0 if there was none. `complete`: the worker's response arrived
    whole. `failed`: the gateway could not record it. `too_large`: only a part of it was kept.
    """
    common = _common(answer, status, complete, caller_gone)
    if too_large:
        common.append("too_large")
    if failed:
        common.append("capture_failed")
    parts = _of_parts(answer, common)
    seen = [*common, *(reason for reasons in parts for reason in reasons)]
    trace = list(dict.fromkeys(seen))
    return Judged(trace if trace or parts else ["token_ids_missing"], parts)


def _common(answer: Assembled, status: int, complete: bool, caller_gone: bool) -> list[Reason]:
    """Return the reasons that apply to all choices."""
    reasons: list[Reason] = []
    if status not in (0, 200):
        reasons.append("error_answer")
    elif answer.error is not None:
        reasons.append("error_event" if answer.streamed else "error_answer")
    # After an error a stream may end without its `[DONE]`. If the caller left after everything was
    # sampled, nothing is missing.
    ended = complete and (answer.done or answer.error is not None)
    if not ended and "error_answer" not in reasons:
        reasons.append("caller_gone" if caller_gone else "worker_broke_off")
    if not answer.readable and status in (0, 200):
        reasons.append("unreadable")
    return reasons


def _of_parts(answer: Assembled, common: list[Reason]) -> list[list[Reason]]:
    found = [common + _of_end(part) + _of_lists(part) for part in answer.parts]
    if not common:  # a response that was cut off has no count, and may have no token yet
        _count(answer, found)
    return found


def _of_end(part: Part) -> list[Reason]:
    if part.finish_reason is None:
        return ["unfinished"]
    return ["aborted"] if part.finish_reason == "abort" else []


def _of_lists(part: Part) -> list[Reason]:
    ids, logprobs = len(part.token_ids), len(part.logprobs)
    if ids == logprobs:
        return []
    if not ids:
        return ["token_ids_missing"]
    return ["counts_differ" if logprobs else "logprobs_missing"]


def _count(answer: Assembled, found: list[list[Reason]]) -> None:
    """Add the reasons from comparing the engine's token count with all choices together."""
    count = answer.completion_tokens
    if count == sum(len(part.token_ids) for part in answer.parts):
        return
    for part, reasons in zip(answer.parts, found, strict=True):
        if not part.token_ids and not part.logprobs:
            reasons += ["token_ids_missing", "logprobs_missing"]
        if count is None:
            reasons.append("usage_missing")
        elif not reasons:
            reasons.append("counts_differ")
