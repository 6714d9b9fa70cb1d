"""Turns a Capture into a Record: parses the response, computes times, and judges it."""

import math
import zlib
from collections.abc import Sequence
from itertools import islice
from operator import sub

import msgspec
import zstandard

from gateway import ENGINE_ERROR, Attempt, Kernel, WireResponse, get_header, is_event_stream
from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.answers.assembly import api_at, assemble
from gateway_plugins.trace_capture.answers.metadata import UNNAMED_WEIGHTS
from gateway_plugins.trace_capture.answers.token_apis.sglang import with_prompts
from gateway_plugins.trace_capture.recording.asked import asked, sampling_params
from gateway_plugins.trace_capture.recording.harness import UNKNOWN, product_of
from gateway_plugins.trace_capture.recording.head import AttemptRecord, Head
from gateway_plugins.trace_capture.recording.observer import Capture
from gateway_plugins.trace_capture.recording.verdict import judge, with_notes

MAX_DECOMPRESSED = 256 * 1024 * 1024
"""Maximum bytes of a decompressed response."""

COOKIES = (b"set-cookie", b"set-cookie2")


class Record(msgspec.Struct):
    """One parsed call. `request`: the body as the caller sent it, in chat if it was carried with
    token-in/token-out. `retried`: marked as a retry.

    `started` is `time.monotonic()` at its beginning. `harness` is who sent the request.
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
    harness: str = UNKNOWN


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
    request, tito = call.body.readable or b"", capture.tito
    if tito is not None:
        head.metadata, head.messages = {**head.metadata, "tito": tito.facts}, tito.messages
        request = request if tito.request is None else tito.request
    return Record(
        trace_id=call.trace_id,
        session_id=call.session_id,
        timestamp=call.created,
        model=answer.model or call.model or "",
        retried=get_header(call.headers, b"x-stainless-retry-count") not in (None, b"", b"0"),
        request=request,
        answer=answer,
        head=head,
        started=call.started,
        harness=product_of(call.headers) if call.harness is None else call.harness.name,
    )


def _decoded(capture: Capture) -> bytes | None:
    """Return the response body without its content-encoding; None if it cannot be decoded."""
    body = b"".join(capture.reads.chunks)
    coding = get_header(capture.headers, b"content-encoding")
    if not coding:
        return body
    coding = coding.strip().lower()
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
    call, outcome, attempts = capture.call, capture.call.outcome, capture.call.attempts
    last = attempts[-1] if attempts else None
    context = call.distributed_trace
    injected, overwritten, used = call.injected, call.overwritten, outcome.usage
    api = api_at(call.path)
    nested = api is not None and api.nested
    return Head(
        call_id=call.id,
        path=call.path,
        translated_from=None if call.translated_from is None else call.translated_from.name,
        dialect=call.dialect.name if call.dialect is not None else None,
        streamed=streamed,
        response_id=answer.response_id,
        worker=last.worker.id if last is not None else None,
        principal=call.principal.id if call.principal is not None else None,
        harness=[] if call.harness is None else list(msgspec.structs.astuple(call.harness)),
        span=[] if context is None else [context.trace_id, context.span_id, context.parent_id],
        attempts=_attempts(call.started, attempts),
        injected=dict(injected),
        overwritten=dict(overwritten),
        sampling_params=sampling_params(
            call.body.readable or b"", injected, overwritten, nested=nested
        ),
        usage=answer.usage,
        engine_version=answer.weight_version,
        admin_version=capture.admin_version,
        times=_times(capture, last, answer.events if streamed else None),
        status=outcome.status,
        bytes_sent=outcome.bytes_sent,
        caller_gone=outcome.caller_gone,
        delivered=outcome.complete,
        error=str(outcome.error) if outcome.error is not None else answer.error,
        worker_version=last.weight_version if last is not None else None,
        worker_version_end=_changed_version(last) if last is not None else None,
        result=outcome.result,
        tokens=None if used is None else [used.prompt_tokens, used.completion_tokens],
        repeated=outcome.repeated,
        wire=_wire(capture) if capture.keeps_bytes else None,
    )


def _wire(capture: Capture) -> WireResponse | None:
    """Return the response as it came; None if none came, or if there was no room for it."""
    if not capture.status or capture.too_large:
        return None
    lines = [(name, value) for name, value in capture.headers if name not in COOKIES]
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in lines]
    return WireResponse(status=capture.status, headers=headers, body=b"".join(capture.reads.chunks))


def _changed_version(attempt: Attempt) -> int | str | None:
    """Return the weight version when the attempt ended, if it changed, else None."""
    end = attempt.weight_version_end
    return end if end != attempt.weight_version else None


def _attempts(start: float, attempts: Sequence[Attempt]) -> list[AttemptRecord]:
    found = [_attempt(start, one) for one in attempts]
    if sum(one.tokens is not None for one in attempts) < 2:  # one worker sent the whole response
        return found
    return [
        msgspec.structs.replace(record, tokens=one.tokens, version=one.weight_version)
        for record, one in zip(found, attempts, strict=True)
    ]


def _attempt(start: float, attempt: Attempt) -> AttemptRecord:
    """Return the record of an attempt; its times are whole microseconds from `start`."""
    connected, first_byte, ended = attempt.connected, attempt.first_byte, attempt.ended
    fault = ENGINE_ERROR if attempt.ending.fault else None
    return AttemptRecord(
        attempt.worker.id,
        int((attempt.started - start) * 1e6),
        None if connected is None else int((connected - start) * 1e6),
        None if first_byte is None else int((first_byte - start) * 1e6),
        None if ended is None else int((ended - start) * 1e6),
        attempt.status,
        attempt.error.code if attempt.error is not None else fault,
    )


def _times(capture: Capture, last: Attempt | None, events: int | None) -> list[int | None]:
    """Return whole microseconds: queue, connect, TTFT, total, ITL p50, ITL p99.

    `last` is the latest attempt, `events` the number of a stream's events.
    """
    outcome = capture.call.outcome
    total = int(outcome.duration * 1e6)
    queue, connect = total, None
    if last is not None:
        queue = int((last.started - capture.call.started) * 1e6)
        if last.connected:
            connect = int((last.connected - last.started) * 1e6)
    ttft = None if outcome.ttft is None else int(outcome.ttft * 1e6)
    if events is None:
        return [queue, connect, ttft, total, None, None]
    return [queue, connect, ttft, total, *_gaps(capture.reads.times, events)]


def _gaps(times: Sequence[float], events: int) -> list[int | None]:
    """Return the p50 and p99 of the times between events that came in reads at these times.

    Whole microseconds; between events of one read, 0. None twice if there was one event at most.
    """
    gaps = sorted(map(sub, islice(times, 1, None), times))
    within = max(events - len(times), 0)  # none of them is longer than one of `gaps`
    count = within + len(gaps)
    if not count:
        return [None, None]
    places = [min(count - 1, int(count * share)) - within for share in (0.5, 0.99)]
    return [int(gaps[place] * 1e6) if place >= 0 else 0 for place in places]


def differ(named: Sequence[int | str], attempt: Attempt) -> bool:
    """Whether the engine names other weights than the fleet knows the worker to have had.

    False if the fleet knows of none, or if the worker's weights changed during the attempt: tokens
    of any version in between are then right. Versions are compared as text.
    """
    known = attempt.weight_version
    if not named or known in (None, UNNAMED_WEIGHTS) or attempt.weight_version_end != known:
        return False
    return any(str(version) != str(known) for version in named)


def _judge(capture: Capture, answer: Assembled, head: Head) -> None:
    call, outcome = capture.call, capture.call.outcome
    # Without an attempt, the gateway itself rejected the call.
    refused = 0 if call.attempts else outcome.status
    if refused and outcome.error is not None:
        refused = outcome.error.status  # sent after SSE comments, so its own status is 200
    api, request = api_at(call.path), call.body.readable or b""
    wanted = asked(api, request, head.sampling_params)
    if api is not None and api.name == "sglang_generate":
        with_prompts(answer.parts, request, wanted.choices)
    judged = judge(
        answer,
        wanted,
        status=capture.status or refused,
        complete=outcome.complete,
        finished=bool(outcome.ending.finished),
        caller_gone=outcome.caller_gone,
        aborted=outcome.ending.aborted,
        failed=bool(outcome.failures),
        too_large=capture.too_large,
    )
    if not wanted.has_history:
        judged = with_notes(judged, ("history_missing",))
    if call.attempts and differ(answer.versions_named, call.attempts[-1]):
        judged = with_notes(judged, ("versions_differ",))
    if call.notes:
        judged = with_notes(judged, tuple(call.notes))
        head.metadata = head.metadata | dict(call.notes.items())
    head.reasons, head.choice_reasons = judged.trace, judged.parts
