"""What a call must have been counted as, by its trace: found anew, from what was recorded."""

from collections.abc import Mapping

import msgspec

from gateway import Trace, Usage
from gateway_plugins.usage.ledger import LONGEST, how_it_went
from gateway_plugins.usage.names import OTHER, is_plain

_NOT_WHOLE = frozenset({"too_large", "redacted", "capture_failed", "unreadable"})
"""Reasons of a trace that has not all that the gateway has seen."""


class Expected(msgspec.Struct, frozen=True):
    """By the trace. `models` are the names that will do; `tokens` has those that it knows.

    `counted`: whether no engine told the tokens; None: it cannot be known.
    """

    key: str
    models: tuple[str, ...]
    worker: str
    outcome: int
    tokens: Mapping[str, int]
    counted: bool | None


def expected(trace: Trace, internal_id: str) -> Expected:
    tokens, counted = _tokens(trace)
    return Expected(
        (internal_id if trace.principal is None else trace.principal)[:LONGEST],
        _models(trace),
        (trace.worker or "")[:LONGEST],
        how_it_went(trace.delivery.caller_gone, trace.delivery.complete, trace.delivery.status),
        tokens,
        counted,
    )


def _models(trace: Trace) -> tuple[str, ...]:
    """The model that was asked for; OTHER too, where that may stand for it."""
    body = trace.raw_request or {}
    name = trace.overwritten.get("model", body.get("model"))
    if not isinstance(name, str):
        return ("",)
    return (name, OTHER) if is_plain(name) else (OTHER,)


def _tokens(trace: Trace) -> tuple[Mapping[str, int], bool | None]:
    if not _is_answer(trace):
        return _all_of(Usage()), False
    if not _NOT_WHOLE.isdisjoint(trace.reasons):
        return {}, None
    told = Usage.told(trace.usage)
    if told is not None:
        return _all_of(told), False
    if not trace.streamed:
        return _all_of(Usage()), False
    return _sampled(trace), True


def _is_answer(trace: Trace) -> bool:
    """Whether the latest attempt, or who answered in a worker's place, began to answer well."""
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
    """Of a stream without usage: the ids that came; nothing is known where none did."""
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
