"""The spans of a finished call: its own, of the kind SERVER, and a CLIENT for each attempt.

The call's span has the attributes of generative AI, because the conventions want one span for an
operation with all its retries. An attempt has those of an HTTP client, which number the retries.
"""

from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import urlsplit

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway_plugins.otel.record import SECOND, FinishedCall, TriedWorker, Value, cut
from gateway_plugins.otel.response import Said, said_of
from gateway_plugins.otel.spans.attributes import MAX_KNOWN, attribute, number, text, yes
from gateway_plugins.otel.spans.conventions import GenAi, operation_of

LOCAL, REMOTE = 0x100, 0x300
"""Flags of a span whose parent is of this process, or that has none, and of one elsewhere."""

HTTP = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
"""Methods that the conventions know; another one is `_OTHER`."""

ERROR = Status(code=Status.STATUS_CODE_ERROR)


def spans_of(call: FinishedCall, gen_ai: GenAi) -> list[Span]:
    """Return the spans of a call, its own first."""
    return [_call(call, gen_ai), *(_attempt(call, place) for place in range(len(call.attempts)))]


def _call(call: FinishedCall, gen_ai: GenAi) -> Span:
    samples = call.api is not None and not call.manages
    span = Span(
        trace_id=bytes.fromhex(call.trace_id),
        span_id=bytes.fromhex(call.span_id),
        parent_span_id=b"" if call.parent_id is None else bytes.fromhex(call.parent_id),
        trace_state=call.tracestate,
        name=_name(call) if samples else _http_name(call),
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=call.began,
        end_time_unix_nano=call.ended,
        flags=(LOCAL if call.parent_id is None else REMOTE) | 1,
        events=_events(call),
        status=ERROR if _failed(call) else None,
    )
    span.attributes.extend(_own(call))
    if samples:
        span.attributes.extend(_gen_ai(call, gen_ai))
    return span


def _name(call: FinishedCall) -> str:
    operation = operation_of(call.api or "")
    return operation if call.model is None else f"{operation} {call.model}"


def _http_name(call: FinishedCall) -> str:
    method = call.method if call.method in HTTP else "HTTP"
    return method if call.label is None else f"{method} {call.label}"


def _method(call: FinishedCall) -> str:
    return call.method if call.method in HTTP else "_OTHER"


def _failed(call: FinishedCall) -> bool:
    """Whether it went wrong here or at the worker: a 4xx is an error of the caller alone."""
    return call.result in ("error", "aborted") and not 400 <= call.status < 500


def _own(call: FinishedCall) -> Iterator[KeyValue]:
    """What there is to tell of any call."""
    yield text("http.request.method", _method(call))
    yield attribute("url.path", call.path)
    if call.label is not None:
        yield text("http.route", call.label)
    if call.status:
        yield number("http.response.status_code", call.status)
    if call.result == "error":
        yield text("error.type", cut(call.failure or str(call.status)))
    yield attribute("gateway.call.id", call.call_id)
    yield text("gateway.result", call.result)
    yield text("gateway.frontend", call.frontend)
    yield text("gateway.source", call.source)
    if call.principal is not None:
        yield text("gateway.principal", call.principal)
    yield number("gateway.attempts", len(call.attempts))
    if call.overhead is not None:
        yield attribute("gateway.overhead", call.overhead)
    if call.usage is not None and call.usage.counted:
        yield yes("gateway.usage.counted")


def _gen_ai(call: FinishedCall, gen_ai: GenAi) -> Iterator[KeyValue]:
    """The attributes of generative AI, under the names of the chosen generation."""
    said = Said() if call.response is None else said_of(call.response)
    reasons = tuple([cut(reason) for reason in said.reasons])
    answered = cut(said.model)
    yield from _usual(gen_ai, call.api or "", call.model, call.streams, answered, reasons)
    if call.session_id is not None:
        yield attribute("gen_ai.conversation.id", call.session_id)
    if said.id:
        yield attribute("gen_ai.response.id", cut(said.id))
    for latest, value in (*call.parameters.items(), *_usage(call)):
        if (name := gen_ai.name(latest)) is not None:
            yield attribute(name, value)


@lru_cache(MAX_KNOWN)
def _usual(
    gen_ai: GenAi,
    api: str,
    model: str | None,
    streams: bool,
    answered: str,
    reasons: tuple[str, ...],
) -> tuple[KeyValue, ...]:
    """The attributes that many calls share, to be copied."""
    found: list[tuple[str, Value | None]] = [
        ("gen_ai.operation.name", operation_of(api)),
        ("gen_ai.provider.name", gen_ai.provider_of(api)),
        ("gen_ai.request.model", model),
        ("gen_ai.request.stream", streams or None),
        ("gen_ai.response.model", answered or None),
        ("gen_ai.response.finish_reasons", reasons or None),
    ]
    named = [(gen_ai.name(latest), value) for latest, value in found]
    return tuple([attribute(name, value) for name, value in named if name and value is not None])


def _usage(call: FinishedCall) -> Iterator[tuple[str, Value]]:
    """The tokens, and the time of the first event."""
    usage, first = call.usage, _first_chunk(call)
    if first is not None:
        yield "gen_ai.response.time_to_first_chunk", first
    if usage is None:
        return
    yield "gen_ai.usage.input_tokens", usage.prompt_tokens
    yield "gen_ai.usage.output_tokens", usage.completion_tokens
    if usage.cached_tokens:
        yield "gen_ai.usage.cache_read.input_tokens", usage.cached_tokens
    if usage.reasoning_tokens:
        yield "gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens


def _first_chunk(call: FinishedCall) -> float | None:
    """Seconds from the call's start to the first event of its stream."""
    if call.first_event is None or call.response is None or not call.response.stream:
        return None
    return max(0, call.first_event - call.began) / SECOND


def _events(call: FinishedCall) -> list[Span.Event]:
    found = list(_of_attempts(call))
    first = call.first_event if call.first_event is not None else call.first_byte
    if first is not None:
        found.append(Span.Event(name="gateway.first_token", time_unix_nano=first))
    return found


def _of_attempts(call: FinishedCall) -> Iterator[Span.Event]:
    """How long the call waited, and what came between its attempts."""
    before: TriedWorker | None = None
    for attempt in call.attempts:
        worker = text("gateway.worker", attempt.worker)
        if before is None:
            waited = attribute("gateway.queue.duration", call.queue)
            yield _event("gateway.queue", attempt.began, waited)
        else:
            after = text("gateway.retry.after", before.result)
            yield _event("gateway.retry", attempt.began, worker, after)
        if attempt.ejected:
            yield _event("gateway.ejection", attempt.ended, worker)
        before = attempt


def _event(name: str, time: int, *attributes: KeyValue) -> Span.Event:
    return Span.Event(name=name, time_unix_nano=time, attributes=attributes)


def _attempt(call: FinishedCall, place: int) -> Span:
    attempt = call.attempts[place]
    span = Span(
        trace_id=bytes.fromhex(call.trace_id),
        span_id=bytes.fromhex(attempt.span_id),
        parent_span_id=bytes.fromhex(call.span_id),
        trace_state=call.tracestate,
        name=_http_name(call),
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=attempt.began,
        end_time_unix_nano=attempt.ended,
        flags=LOCAL | 1,
        status=None if attempt.failure is None else ERROR,
    )
    if attempt.first_byte is not None:
        span.events.add(name="gateway.first_byte", time_unix_nano=attempt.first_byte)
    span.attributes.append(text("http.request.method", _method(call)))
    span.attributes.extend(_of_worker(attempt, call.path))
    if attempt.status is not None:
        span.attributes.append(number("http.response.status_code", attempt.status))
    if attempt.failure is not None:
        span.attributes.append(text("error.type", attempt.failure))
    if place:
        span.attributes.append(number("http.request.resend_count", place))
    return span


def _of_worker(attempt: TriedWorker, path: str) -> Iterator[KeyValue]:
    parts = urlsplit(attempt.url)
    if parts.hostname:
        yield text("server.address", parts.hostname)
        yield number("server.port", parts.port or (443 if parts.scheme == "https" else 80))
    yield attribute("url.full", f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}")
    yield text("gateway.worker", attempt.worker)
    if attempt.reused:
        yield yes("gateway.connection.reused")
