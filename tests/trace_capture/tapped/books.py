"""Compares what was recorded of each call with what the tap heard the engine say."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from accounting.tap import Served
from trace_capture.tapped.heard import is_ended, text_of
from trace_capture.tapped.load import Asked
from trace_capture.tapped.told import ABORTS, Sample, Told, ends_in_order, told

from gateway import Trace, TraceChoice

TRANSLATED = ("messages", "responses")
GARBAGE = b"the arguments of a tool call are no JSON object"
"""What a plain message cannot hold, whole as the sample is."""

OWN_TEXT = ("chat", "completions")


class Row(msgspec.Struct):
    """The calls of one API.

    `late`: the engine had said all, but its caller had left before the gateway read that.
    `untraced`: their callers left before there was anything to record. `garbage`: tool calls that
    the API of their callers cannot hold.
    """

    calls: int = 0
    complete: int = 0
    tokens: int = 0
    late: int = 0
    untraced: int = 0
    without_sample: int = 0
    garbage: int = 0
    incomplete: Counter[str] = msgspec.field(default_factory=Counter)


class Books:
    """`problems` are the differences; none is best."""

    def __init__(self, traces: Iterable[Trace], pages: Iterable[Served]) -> None:
        self.rows: dict[str, Row] = {}
        self.problems: list[str] = []
        self._traces: dict[str, list[Trace]] = {}
        self._pages: dict[str, list[Served]] = {}
        for trace in traces:
            self._traces.setdefault(trace.call_id, []).append(trace)
        for page in pages:
            self._pages.setdefault(page.call_id, []).append(page)

    def compare(self, made: Iterable[Asked]) -> None:
        for asked in made:
            ask = asked.ask
            traces = self._traces.get(ask.call_id, [])
            row = self.rows.setdefault(ask.api, Row())
            row.calls += 1
            found = [*self._of_count(asked, traces, row)]
            if len(traces) == 1:
                page = (self._pages.get(ask.call_id) or [Served()])[-1]
                found += _compare(asked, traces[0], page, row)
            self.problems += [f"{ask.call_id} {ask.api}: {one}; {_shown(asked)}" for one in found]

    @staticmethod
    def _of_count(asked: Asked, traces: list[Trace], row: Row) -> Iterator[str]:
        if not asked.ask.samples:
            row.without_sample += 1
            if traces:
                yield "it samples nothing, and has a trace"
        elif len(traces) > 1:
            yield f"{len(traces)} traces"
        elif not traces and asked.left and not asked.said.body:
            row.untraced += 1
        elif not traces:
            yield "no trace"


def _shown(asked: Asked) -> str:
    ends = {name: getattr(asked, name) for name in ("left", "doomed", "aborted")}
    return f"{ends} status {asked.said.status} {asked.ask.body}"


def _compare(asked: Asked, trace: Trace, page: Served, row: Row) -> Iterator[str]:
    heard = told(page, asked.ask)
    whole = heard.is_whole(asked.ask) and not asked.ask.beam
    late = whole and asked.left and trace.reasons[:1] == ["caller_gone"]
    if trace.verdict == "COMPLETE":
        row.complete += 1
        row.tokens += sum(len(one.token_ids) for one in trace.choices)
        if not whole:
            yield f"COMPLETE, but the engine said {heard}"
    else:
        row.incomplete["+".join(trace.reasons)] += 1
        row.late += late
        if whole and not late:
            yield f"INCOMPLETE ({trace.reasons}), but the engine said all"
        elif not late:
            yield from _of_reasons(asked, trace, page, heard)
    yield from _of_samples(trace, heard.samples, exact=trace.verdict == "COMPLETE")
    yield from _of_caller(asked, trace, page, row)


def _of_reasons(asked: Asked, trace: Trace, page: Served, heard: Told) -> Iterator[str]:
    expected = _reason(asked, trace, page, heard)
    broken = bool(asked.ask.fault) or asked.doomed  # at the same time, perhaps
    gone = asked.left and trace.reasons[:1] == ["caller_gone"]
    if expected == "caller_gone" and broken and "worker_broke_off" in trace.reasons:
        return
    if expected not in trace.reasons and not gone:
        yield f"INCOMPLETE for {trace.reasons}, but it is {expected}: {heard}"


def _reason(asked: Asked, trace: Trace, page: Served, heard: Told) -> str:
    """Why the call has no whole sample."""
    samples = list(heard.samples.values())
    if page.call_id and not (page.whole or heard.samples or heard.error or asked.left):
        return "worker_broke_off"  # whatever the gateway made of that
    aborted = any(one.finish_reason in ABORTS for one in samples)
    if page.status not in (0, 200) or (asked.said.status not in (0, 200) and not aborted):
        return "error_answer"
    if heard.error:
        return "error_event"
    if not ends_in_order(page) and not heard.is_finished(asked.ask):
        return "caller_gone" if asked.left else "worker_broke_off"
    if asked.ask.api in TRANSLATED and trace.translated_from is None:
        return "not_translated"
    if aborted or heard.completion_tokens == 0:
        return "aborted"
    return _lack(asked, samples, heard)


def _lack(asked: Asked, samples: list[Sample], heard: Told) -> str:
    """What a response that came to the ends of its samples lacks."""
    if heard.completion_tokens is None:
        return "usage_missing"
    if asked.ask.beam:
        return "not_a_sample"
    if asked.ask.body.get("include_reasoning") is False:
        return "reasoning_excluded"
    if any(one.finish_reason is None for one in samples):
        return "unfinished"
    if not all(one.ids for one in samples):
        return "token_ids_missing"
    if any(len(one.ids) != len(one.logprobs) for one in samples):
        return "counts_differ" if all(one.logprobs for one in samples) else "logprobs_missing"
    return "logprobs_invalid" if all(one.prompt for one in samples) else "prompt_ids_missing"


def _of_samples(trace: Trace, samples: Mapping[int, Sample], *, exact: bool) -> Iterator[str]:
    """What was recorded is what was said, or the beginning of that."""
    if exact and [one.index for one in trace.choices] != sorted(samples):
        yield f"choices {[one.index for one in trace.choices]}, but {sorted(samples)} were said"
    for choice in trace.choices:
        one = samples.get(choice.index, Sample())
        if not _is_equal(choice, one, exact=exact):
            yield f"recorded {choice}, but the engine said {one}"
        elif choice.verdict == "COMPLETE" and not one.whole:
            yield f"choice {choice.index} is COMPLETE, but the engine said {one}"


def _is_equal(choice: TraceChoice, one: Sample, *, exact: bool) -> bool:
    count = None if exact else len(choice.token_ids)
    scores = None if exact else len(choice.logprobs or ())
    prompts = (one.prompt,) if exact else (one.prompt, [])
    return (
        choice.token_ids == one.ids[:count]
        and list(choice.logprobs or ()) == one.logprobs[:scores]
        and list(choice.prompt_token_ids or ()) in prompts
        and (not exact or choice.finish_reason == one.finish_reason)
    )


def _of_caller(asked: Asked, trace: Trace, page: Served, row: Row) -> Iterator[str]:
    """What the caller was told agrees with what the engine said."""
    api = asked.ask.api
    if not is_ended(api, asked.said):
        if GARBAGE in asked.said.body:
            row.garbage += 1
        elif trace.verdict == "COMPLETE" and not (asked.left or asked.doomed or asked.ask.fault):
            yield f"COMPLETE, but the caller got {bytes(asked.said.body[-300:])!r}"
        return
    carried = "chat" if trace.translated_from else api
    if text_of(api, asked.said) != text_of(carried, page):
        yield f"the caller read {text_of(api, asked.said)!r}, not {text_of(carried, page)!r}"
    asks = asked.ask.body.get("return_token_ids") or asked.ask.body.get("echo")
    if api in OWN_TEXT and not asks and b'token_ids":[' in asked.said.body:
        yield "its caller was told token ids"
