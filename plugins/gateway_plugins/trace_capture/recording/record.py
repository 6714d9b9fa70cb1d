"""Turns a Capture into a Record: parses the response, computes times, and judges it."""

import math
import zlib
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import zstandard

from gateway import ENGINE_ERROR, Attempt, Call, Kernel, get_header, is_event_stream
from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.answers.assembly import api_at, assemble
from gateway_plugins.trace_capture.recording.asked import asked, sampling_params
from gateway_plugins.trace_capture.recording.head import AttemptRecord, Head
from gateway_plugins.trace_capture.recording.observer import Capture
from gateway_plugins.trace_capture.recording.verdict import judge

MAX_DECOMPRESSED = 256 * 1024 * 1024
"""Maximum bytes of a decompressed response."""


class Record(msgspec.Struct):
    """One parsed call. `request`: the body as the caller sent it. `retried`: marked as a retry.

    `started` is `time.monotonic()` at its beginning.
    """

    trace_id: str
    session_id: str | None
    timestamp: float
    model: str
    retried: bool
    request: bytes
    answer: Assembled
    head: Head
    started: float = math.inf


def make_record(capture: Capture, kernel: Kernel | None = None) -> Record:
    """Return the record of a finished call. Never raises, whatever caller and worker sent.

    `kernel` reads the responses that it can.
    """
    call = capture.call
    streamed = is_event_stream(capture.headers)
    body = _decoded(capture)
    status = capture.status or 200
    answer = assemble(call.path, body or b"", streamed=streamed, status=status, kernel=kernel)
    answer.readable = (answer.readable and body is not None) or not capture.status
    head = _head(capture, answer, streamed)
    _judge(capture, answer, head)
    return Record(
        trace_id=call.trace_id,
        session_id=call.session_id,
        timestamp=call.created,
        model=answer.model or call.model or "",
        retried=(call.header("x-stainless-retry-count") or "0") != "0",
        request=call.body.readable or b"",
        answer=answer,
        head=head,
        started=call.started,
    )


def _decoded(capture: Capture) -> bytes | None:
    """Return the response body without its content-encoding; None if it cannot be decoded."""
    body = b"".join(capture.chunks)
    coding = (get_header(capture.headers, b"content-encoding") or b"identity").strip().lower()
    try:
        if coding == b"identity":
            return body
        if coding in (b"gzip", b"x-gzip", b"deflate"):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_DECOMPRESSED)
        if coding == b"zstd":
            return zstandard.ZstdDecompressor().stream_reader(body).read(MAX_DECOMPRESSED)
    except (zlib.error, zstandard.ZstdError):
        return None
    return None


def _head(capture: Capture, answer: Assembled, streamed: bool) -> Head:
    call, outcome = capture.call, capture.call.outcome
    begun, ended = _worker_versions(call)
    used = outcome.usage
    return Head(
        call_id=call.id,
        path=call.path,
        dialect=call.dialect.name if call.dialect is not None else None,
        streamed=streamed,
        response_id=answer.response_id,
        worker=call.worker.id if call.worker is not None else None,
        principal=call.principal.id if call.principal is not None else None,
        attempts=[_attempt(call, one) for one in call.attempts],
        injected=dict(call.injected),
        overwritten=dict(call.overwritten),
        sampling_params=sampling_params(call.body.readable or b"", call.injected, call.overwritten),
        usage=answer.usage,
        engine_version=answer.weight_version,
        admin_version=capture.admin_version,
        times=_times(capture, streamed, answer.events),
        status=outcome.status,
        bytes_sent=outcome.bytes_sent,
        caller_gone=outcome.caller_gone,
        delivered=outcome.complete,
        error=str(outcome.error) if outcome.error is not None else answer.error,
        worker_version=begun,
        worker_version_end=ended,
        result=outcome.result,
        tokens=None if used is None else [used.prompt_tokens, used.completion_tokens],
    )


def _worker_versions(call: Call) -> tuple[int | str | None, int | str | None]:
    """Weight versions when the last attempt began and, if it changed, when it ended (else None)."""
    if not call.attempts:
        return None, None
    begun, ended = call.attempts[-1].weight_version, call.attempts[-1].weight_version_end
    return begun, ended if ended != begun else None


def _attempt(call: Call, attempt: Attempt) -> AttemptRecord:
    start = call.started
    return AttemptRecord(
        attempt.worker.id,
        _microseconds(attempt.started - start),
        None if attempt.connected is None else _microseconds(attempt.connected - start),
        None if attempt.first_byte is None else _microseconds(attempt.first_byte - start),
        None if attempt.ended is None else _microseconds(attempt.ended - start),
        attempt.status,
        attempt.error.code if attempt.error is not None else _fault_of(attempt),
    )


def _fault_of(attempt: Attempt) -> str | None:
    return ENGINE_ERROR if attempt.ending.fault else None


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)


def _times(capture: Capture, streamed: bool, events: int) -> list[int | None]:
    """Return whole microseconds: queue, connect, TTFT, total, ITL p50, ITL p99."""
    call, outcome = capture.call, capture.call.outcome
    last = call.attempts[-1] if call.attempts else None
    queue = (last.started - call.started) if last is not None else outcome.duration
    connect = last.connected - last.started if last is not None and last.connected else None
    gaps = _gaps(capture, events) if streamed else []
    itl_p50, itl_p99 = _quantile(gaps, 0.5), _quantile(gaps, 0.99)
    times = (queue, connect, outcome.ttft, outcome.duration, itl_p50, itl_p99)
    return [None if one is None else int(one * 1e6) for one in times]


def _gaps(capture: Capture, events: int) -> list[float]:
    """Return the seconds between events, sorted; 0.0 between events that came in one read."""
    gaps = [later - earlier for earlier, later in pairwise(capture.times)]
    gaps += [0.0] * (events - len(capture.times))
    gaps.sort()
    return gaps


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def _judge(capture: Capture, answer: Assembled, head: Head) -> None:
    call, outcome = capture.call, capture.call.outcome
    # Without an attempt, the gateway itself rejected the call.
    refused = 0 if call.attempts else outcome.status
    if refused and outcome.error is not None:
        refused = outcome.error.status  # sent after SSE comments, so its own status is 200
    judged = judge(
        answer,
        asked(api_at(call.path), call.body.readable or b"", head.sampling_params),
        status=capture.status or refused,
        complete=outcome.complete,
        finished=bool(outcome.ending.finished),
        caller_gone=outcome.caller_gone,
        aborted=outcome.ending.aborted,
        failed=bool(outcome.failures),
        too_large=capture.too_large,
    )
    head.reasons, head.choice_reasons = judged.trace, judged.parts
