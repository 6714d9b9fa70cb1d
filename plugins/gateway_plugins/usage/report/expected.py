"""Computes the row that a call must have in the ledger, from its trace alone."""

from collections.abc import Mapping

import msgspec

from gateway import Delivery, Trace, Usage
from gateway_plugins.usage.ledger.model_names import OTHER, is_plain
from gateway_plugins.usage.ledger.row import ABORT, ERROR, MAX_NAME, OUTCOMES, SUCCESS

_NOT_WHOLE = frozenset({"too_large", "redacted", "capture_failed", "unreadable"})
"""Reasons of a trace that lacks a part of what the gateway received."""


class Expected(msgspec.Struct, frozen=True):
    """The row that a trace implies.

    `models` are the accepted names; `tokens` has the counts that the trace knows. `counted`:
    whether the gateway counted the tokens, as the engine reported none; None if the trace cannot
    show it. `kept` has the counts that the gateway wrote into the trace. `repeated`: the call was
    an attempt, its work ran again in another call.
    """

    key: str
    models: tuple[str, ...]
    worker: str
    outcome: int
    tokens: Mapping[str, int]
    counted: bool | None
    kept: Mapping[str, int]
    repeated: bool


def expected(trace: Trace, internal_id: str) -> Expected:
    tokens, counted = _tokens(trace)
    return Expected(
        (internal_id if trace.principal is None else trace.principal)[:MAX_NAME],
        _models(trace),
        (trace.worker or "")[:MAX_NAME],
        _outcome(trace.delivery),
        tokens,
        counted,
        {f"{name}_tokens": tokens for name, tokens in trace.token_counts.items()},
        trace.delivery.repeated,
    )


def _outcome(delivery: Delivery) -> int:
    """The outcome of the trace; traces of version 0.1 do not tell it, and had a rule of
    their own."""
    if delivery.result is not None:
        return OUTCOMES[delivery.result]
    if delivery.caller_gone:
        return ABORT
    return SUCCESS if delivery.complete and delivery.status < 400 else ERROR


def _models(trace: Trace) -> tuple[str, ...]:
    """Return the requested model; also OTHER if the ledger may have that instead.

    The trace has the body alone; a form, or the query, may have named the model of the trace.
    """
    body = trace.raw_request or {}
    name = trace.overwritten.get("model", body.get("model"))
    if not isinstance(name, str):
        return ("", trace.model, OTHER)
    return (name, OTHER) if is_plain(name) else (OTHER,)


def _tokens(trace: Trace) -> tuple[Mapping[str, int], bool | None]:
    if not _is_answer(trace):
        return _all_of(Usage()), False
    if not _NOT_WHOLE.isdisjoint(trace.reasons):
        return {}, None
    timings = (trace.raw_response or {}).get("timings")
    reported = Usage.from_wire(trace.usage, timings)
    if reported is not None and trace.streamed and not reported.completion_tokens:
        return {}, None  # a message that was cut: what came of it was counted
    if reported is not None:
        return _all_of(reported), False
    if not trace.streamed:
        return _all_of(Usage()), False
    return _sampled(trace), True


def _is_answer(trace: Trace) -> bool:
    """Return whether the response began with a 2xx status.

    The status is that of the latest attempt; without attempts, that of the delivered response.
    """
    status = trace.attempts[-1].status if trace.attempts else trace.delivery.status
    return status is not None and 200 <= status < 300


def _all_of(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def _sampled(trace: Trace) -> dict[str, int]:
    """Count the token ids of a stream without usage; leave out a count that has no ids."""
    found: dict[str, int] = {}
    completion = sum(len(choice.token_ids) for choice in trace.choices)
    if completion:
        found["completion_tokens"] = completion
    each = (trace.raw_request or {}).get("n")
    first_of = max(each, 1) if isinstance(each, int) else 1
    prompts = [one.prompt_token_ids for one in trace.choices if one.index % first_of == 0]
    if any(prompts):
        found["prompt_tokens"] = sum(map(len, prompts))
    return found
