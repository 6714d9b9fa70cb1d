"""Builds the public Trace from the recorded data of a call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway import (
    NOT_JSON,
    Delivery,
    Harness,
    Timings,
    Trace,
    TraceAttempt,
    TraceChoice,
    TraceSpan,
    Usage,
    WeightVersions,
)
from gateway_plugins.trace_capture.answers.assembled import Part, share_prompts
from gateway_plugins.trace_capture.answers.rebuild import choices_of, whole
from gateway_plugins.trace_capture.recording.head import AttemptRecord, Head
from gateway_plugins.trace_capture.recording.record import Record
from gateway_plugins.trace_capture.recording.spans import add_spans

HARNESS = Harness.__struct_fields__


class Identity(NamedTuple):
    """The fields of a trace that have columns of their own."""

    trace_id: str
    session_id: str | None
    timestamp: float
    model: str
    complete: bool


def trace_of(record: Record) -> Trace:
    """Return the trace as it will be read back, except the divergence, found only on reading."""
    identity = Identity(
        record.trace_id,
        record.session_id,
        record.timestamp,
        record.model,
        not record.head.reasons,
    )
    answer = record.answer
    return build(identity, record.head, record.request, answer.skeleton, answer.parts)


def build(row: Identity, head: Head, request: bytes, skeleton: bytes, parts: list[Part]) -> Trace:
    trace = _flat(row, head)
    _add_request(trace, request)
    _add_answer(trace, skeleton, parts, head)
    return trace


def _flat(row: Identity, head: Head) -> Trace:
    queue, connect, ttft, total, itl_p50, itl_p99 = map(_milli, head.times)
    versions = WeightVersions(
        engine=head.engine_version,
        worker=head.worker_version,
        worker_end=head.worker_version_end,
        admin=head.admin_version,
    )
    return Trace(
        trace_id=row.trace_id,
        session_id=row.session_id or "",
        model=row.model,
        weight_version=version_of(head),
        latency_ms=total or 0.0,
        timestamp=row.timestamp,
        metadata=head.metadata,
        call_id=head.call_id,
        parent_id=head.parent or head.diverged_from,
        retry_of=head.retry_of,
        dialect=head.dialect,
        path=head.path,
        translated_from=head.translated_from,
        streamed=head.streamed,
        response_id=head.response_id,
        worker=head.worker,
        principal=head.principal,
        harness=_harness(head.harness),
        span=_span(*head.span) if head.span else None,
        attempts=[_attempt(one) for one in head.attempts],
        injected=head.injected,
        overwritten=head.overwritten,
        sampling_params=head.sampling_params,
        usage=head.usage,
        weight_versions=versions,
        timings=Timings(
            queue_ms=queue or 0.0,
            connect_ms=connect,
            ttft_ms=ttft,
            total_ms=total or 0.0,
            itl_p50_ms=itl_p50,
            itl_p99_ms=itl_p99,
        ),
        delivery=Delivery(
            status=head.status,
            bytes=head.bytes_sent,
            caller_gone=head.caller_gone,
            complete=head.delivered,
            result=head.result,
            repeated=head.repeated,
        ),
        error=head.error,
        verdict="COMPLETE" if row.complete else "INCOMPLETE",
        reasons=head.reasons,
        wire_response=head.wire,
    )


def _harness(fields: Sequence[str | None]) -> Harness | None:
    return msgspec.convert(dict(zip(HARNESS, fields, strict=False)), Harness) if fields else None


def _span(trace_id: str | None, span_id: str | None, parent_id: str | None) -> TraceSpan:
    return TraceSpan(trace_id or "", span_id or "", parent_id)


def version_of(head: Head) -> int | str | None:
    """Return the engine's own version if known, else the worker's, else the admin's."""
    known = (head.engine_version, head.worker_version, head.admin_version)
    return next((one for one in known if one is not None), None)


def _milli(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e3


def _attempt(row: AttemptRecord) -> TraceAttempt:
    return TraceAttempt(
        worker=row.worker,
        started_ms=row.started / 1e3,
        connected_ms=_milli(row.connected),
        first_byte_ms=_milli(row.first_byte),
        ended_ms=_milli(row.ended),
        status=row.status,
        error=row.error,
        tokens=row.tokens,
        weight_version=row.version,
    )


def _add_request(trace: Trace, request: bytes) -> None:
    body = _object(request)
    trace.raw_request = body
    if body is None:
        return
    messages = body.get("messages")
    if isinstance(messages, list):
        trace.messages = [message for message in messages if isinstance(message, dict)]


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text)
    except NOT_JSON:
        return None
    return value if isinstance(value, dict) else None


def _add_answer(trace: Trace, skeleton: bytes, parts: list[Part], head: Head) -> None:
    share_prompts(parts)
    trace.raw_response = whole(skeleton, parts)
    trace.choices = choices_of(skeleton, parts)
    for choice, reasons in zip(trace.choices, head.choice_reasons, strict=False):
        choice.reasons = reasons
        choice.verdict = "INCOMPLETE" if reasons else "COMPLETE"
    for choice, message in zip(trace.choices, head.messages, strict=False):
        choice.message = message
    if trace.choices:
        add_spans(trace.choices[0], head.attempts)
        _flatten(trace, trace.choices[0])
    trace.token_counts = _token_counts(trace, head)


def _token_counts(trace: Trace, head: Head) -> dict[str, int]:
    """The billed tokens; if nobody bills, those that the engine told, else the token ids."""
    if head.tokens is not None:
        prompt, completion = head.tokens
    else:
        told = Usage.from_wire(head.usage) or Usage()
        ids = sum(len(choice.token_ids) for choice in trace.choices)
        prompt = told.prompt_tokens or len(trace.prompt_token_ids)
        completion = told.completion_tokens or ids
    return {"prompt": prompt, "completion": completion}


def _flatten(trace: Trace, first: TraceChoice) -> None:
    trace.prompt_token_ids = first.prompt_token_ids
    trace.completion_token_ids = first.token_ids
    # rllm's client rejects the whole list if one of its logprobs is null.
    trace.logprobs = None if None in first.logprobs else first.logprobs or None
    trace.routing_matrices = first.routing_matrices
    trace.finish_reason = first.finish_reason
    if first.message is not None:
        trace.response_message = first.message
    elif first.text is not None:
        trace.response_message = {"role": "assistant", "content": first.text}
