"""Judges whether a response has all that a trace promises, with reasons if it does not."""

from collections.abc import Sequence

import msgspec

from gateway import Reason
from gateway_plugins.trace_capture.answers.assembled import Assembled, Part
from gateway_plugins.trace_capture.recording.asked import Asked

ABORTS = frozenset({"abort", "error"})
"""Finish reasons of an engine that stopped the generation."""

_HIDDEN = frozenset({"token_ids_missing", "logprobs_missing"})
"""What an engine leaves out with the reasoning."""

_SIZE = 4
"""Bytes of a packed token id, and of a packed logprob."""


class Judged(msgspec.Struct):
    """The reasons for each part, in the parts' order, and for the trace; empty means COMPLETE.

    A trace has all of its parts' reasons; a trace without parts is never COMPLETE.
    """

    trace: list[Reason]
    parts: list[list[Reason]]


def judge(
    answer: Assembled,
    asked: Asked,
    *,
    status: int,
    complete: bool,
    finished: bool | None = None,
    caller_gone: bool = False,
    aborted: bool = False,
    failed: bool = False,
    too_large: bool = False,
) -> Judged:
    """Judge a call's response to what was asked.

    `status` is the response's, 0 if there was none. `complete`: the worker's response arrived
    whole. `finished` and `aborted`: the response says so, for those without choices. `failed`: the
    gateway could not record it. `too_large`: only a part of it was kept.
    """
    sound = complete and status in (0, 200) and not (failed or too_large)
    if sound and answer.error is None and answer.readable and _is_whole(answer, asked):
        return Judged([], [[] for _ in answer.parts])
    complete = complete or _is_finished(answer, asked, finished)
    common = _common(answer, status, complete, caller_gone, finished)
    if aborted and not answer.parts:
        common.append("aborted")
    if too_large:
        common.append("too_large")
    if failed:
        common.append("capture_failed")
    parts = _of_parts(answer, asked, common, aborted=aborted)
    seen = [*common, *(reason for reasons in parts for reason in reasons)]
    if not common and len(answer.parts) < asked.prompts * asked.choices:
        seen.append("unfinished")  # nothing at all was sent of a choice
    trace = list(dict.fromkeys(seen))
    return Judged(trace if trace or parts else ["token_ids_missing"], parts)


def with_notes(judged: Judged, reasons: Sequence[Reason]) -> Judged:
    """Add the reasons that plugins have given to those of the trace and of all its parts."""
    parts = [list(dict.fromkeys([*part, *reasons])) for part in judged.parts]
    return Judged(list(dict.fromkeys([*judged.trace, *reasons])), parts)


def _is_whole(answer: Assembled, asked: Asked) -> bool:
    """Whether there is no reason in the parts and their counts, as for nearly all calls.

    That takes a fraction of the time in which the reasons are found.
    """
    parts, prompt, completion = answer.parts, 0, 0
    for part in parts:
        size = len(part.packed_ids)
        whole = part.finish_reason and part.finish_reason not in ABORTS and part.packed_prompt
        if not (whole and size and size == len(part.packed_logprobs) and part.are_logprobs):
            return False
        if part.doubts:
            return False
        completion += size
        if part.index % asked.choices == 0:
            prompt += len(part.packed_prompt)
    wanted = asked.prompts * asked.choices
    if not parts or not asked.sampled or len(parts) < wanted:
        return False
    told = answer.prompt_tokens
    agrees = told is None or len(parts) != wanted or told * _SIZE == prompt
    return agrees and answer.completion_tokens == completion // _SIZE


def _common(
    answer: Assembled, status: int, complete: bool, caller_gone: bool, finished: bool | None
) -> list[Reason]:
    """Return the reasons that apply to all choices."""
    reasons: list[Reason] = []
    if status not in (0, 200):
        reasons.append("error_answer")
    elif answer.error is not None:
        reasons.append("error_event" if answer.streamed else "error_answer")
    if not complete and "error_answer" not in reasons:
        reasons.append("caller_gone" if caller_gone else "worker_broke_off")
    elif answer.streamed and not (answer.parts or answer.done or finished or reasons):
        reasons.append("unfinished")
    if not answer.readable and status in (0, 200):
        reasons.append("unreadable")
    return reasons


def _is_finished(answer: Assembled, asked: Asked, finished: bool | None) -> bool:
    """Whether all was sampled, whatever became of the connections after that.

    In chat and completions the finish reasons tell it: `[DONE]` also follows failures, and some
    engines end without it.
    """
    if not answer.parts:
        return answer.streamed and (answer.done if finished is None else finished)
    several = len(answer.parts) >= asked.prompts * asked.choices
    return several and all(part.finish_reason for part in answer.parts)


def _of_parts(
    answer: Assembled, asked: Asked, common: list[Reason], *, aborted: bool
) -> list[list[Reason]]:
    found = [
        common + _of_part(part, asked, cut=bool(common), aborted=aborted) for part in answer.parts
    ]
    if not common:  # a response that was cut off has no count
        _count(answer, asked, found)
    if asked.hides_reasoning:
        found = [_without_hidden(reasons) for reasons in found]
    return [list(dict.fromkeys(reasons)) for reasons in found]


def _without_hidden(reasons: list[Reason]) -> list[Reason]:
    if "token_ids_missing" not in reasons:
        return reasons
    return [*(reason for reason in reasons if reason not in _HIDDEN), "reasoning_excluded"]


def _of_part(part: Part, asked: Asked, *, cut: bool, aborted: bool) -> list[Reason]:
    reasons = _of_end(part, aborted=aborted)
    if part.packed_ids or part.packed_logprobs or not (cut or reasons):
        reasons += _of_lists(part, cut=cut)  # else no token may have been sampled yet
    reasons += part.doubts
    if not asked.sampled:
        reasons.append("not_a_sample")
    return reasons


def _of_end(part: Part, *, aborted: bool) -> list[Reason]:
    if not part.finish_reason:  # a chat that is aborted before its first token has none
        return ["aborted"] if aborted and not part.packed_ids else ["unfinished"]
    return ["aborted"] if part.finish_reason in ABORTS else []


def _of_lists(part: Part, *, cut: bool = False) -> list[Reason]:
    ids, logprobs = len(part.packed_ids), len(part.packed_logprobs)
    reasons: list[Reason] = [] if part.packed_prompt or cut else ["prompt_ids_missing"]
    if not ids:
        reasons.append("token_ids_missing")
    if not logprobs:
        reasons.append("logprobs_missing")
    elif ids and ids != logprobs:
        reasons.append("counts_differ")
    if not part.are_logprobs:
        reasons.append("logprobs_invalid")
    return reasons


def _count(answer: Assembled, asked: Asked, found: list[list[Reason]]) -> None:
    """Add the reasons from comparing the engine's token counts with all choices together."""
    packed = [part.packed_ids for part in answer.parts]
    count, present = answer.completion_tokens, sum(map(len, packed)) // _SIZE
    agrees = count == present and _prompts_agree(answer, asked)
    all_have_ids = all(packed)
    for part, reasons in zip(answer.parts, found, strict=True):
        if not part.packed_ids and (count or 0) > present:
            reasons += _of_lists(part)
        if count is None:
            reasons.append("usage_missing")
        elif not agrees and (all_have_ids or not reasons):
            reasons.append("counts_differ")


def _prompts_agree(answer: Assembled, asked: Asked) -> bool:
    """Whether the engine counted as many tokens of prompts, if it did count and has sent them."""
    count, parts = answer.prompt_tokens, answer.parts
    if count is None or len(parts) != asked.prompts * asked.choices:
        return True
    firsts = [len(part.packed_prompt) // _SIZE for part in parts if part.index % asked.choices == 0]
    return 0 in firsts or count == sum(firsts)
