"""The spans of a finished call: its own, of the kind SERVER, and a CLIENT for each attempt.

The call's span has the attributes of generative AI, because the conventions want one span for an
operation with all its retries. An attempt has those of an HTTP client, which number the retries.
What many calls share is written once and kept.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from urllib.parse import urlsplit

from gateway_plugins.otel.parameters import Value, parameters_of
from gateway_plugins.otel.record import SECOND, FinishedCall, TriedWorker
from gateway_plugins.otel.response import Said, said_of
from gateway_plugins.otel.spans.conventions import GenAi, operation_of
from gateway_plugins.otel.spans.encoding import (
    MAX_KNOWN,
    attribute,
    counted,
    event,
    event_named,
    field,
    measured,
    utf8,
    varying,
)

HTTP = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
"""Methods that the conventions know; another one is `_OTHER`."""

SERVER, CLIENT = b"\x30\x02", b"\x30\x03"
"""`kind`."""

ERROR = b"\x7a\x02\x18\x02"
"""`status`."""

LOCAL, REMOTE = b"\x85\x01\x01\x01\x00\x00", b"\x85\x01\x01\x03\x00\x00"
"""`flags` of a span whose parent is of this process, or that has none, and of one elsewhere."""

LINK = b"\x6a"
"""Tag of a link in a span."""

_PARENT = re.compile(
    "(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_times = Struct("<cQcQ").pack


def spans_of(call: FinishedCall, gen_ai: GenAi) -> list[bytes]:
    """Return the spans of a call, its own first: messages of the type Span."""
    return [_call(call, gen_ai), *(_attempt(call, place) for place in range(len(call.attempts)))]


def _call(call: FinishedCall, gen_ai: GenAi) -> bytes:
    samples = call.api is not None and not call.manages
    name = _name(call) if samples else _http_name(call.method, call.label)
    usage, overhead = call.usage, call.overhead
    parts = [
        _ids(call, call.span_id, call.parent_id),
        field(b"\x2a", utf8(name)),
        SERVER,
        _times(b"\x39", call.began, b"\x41", call.ended),
        _own(
            call.method,
            call.path,
            call.label,
            call.status,
            call.result,
            call.failure,
            call.frontend,
            call.source,
            call.principal,
            len(call.attempts),
            usage is not None and usage.counted,
        ),
        varying("gateway.call.id", call.call_id),
        b"" if overhead is None else measured("gateway.overhead", overhead),
        *(_gen_ai(call, gen_ai) if samples else ()),
        *_events(call),
        b"" if call.linked is None else _link(call.linked),
        ERROR if _failed(call) else b"",
        LOCAL if call.parent_id is None else REMOTE,
    ]
    return b"".join(parts)


def _ids(call: FinishedCall, span_id: str, parent_id: str | None) -> bytes:
    """`trace_id`, `span_id`, `parent_span_id` and `trace_state`."""
    parent = "" if parent_id is None else f"2208{parent_id}"
    ids = bytes.fromhex(f"0a10{call.trace_id}1208{span_id}{parent}")
    return ids + field(b"\x1a", utf8(call.tracestate)) if call.tracestate else ids


@lru_cache(MAX_KNOWN)
def _link(traceparent: str) -> bytes:
    """A link to the span of a request, nothing if the header is invalid."""
    found = _PARENT.fullmatch(traceparent)
    if found is None:
        return b""
    ids = bytes.fromhex(f"0a10{found[1]}1208{found[2]}")
    return field(LINK, ids + b"\x35" + bytes((int(found[3], 16), 3, 0, 0)))


def _name(call: FinishedCall) -> str:
    operation = operation_of(call.api or "")
    return operation if call.model is None else f"{operation} {call.model}"


def _http_name(method: str, label: str | None) -> str:
    known = method if method in HTTP else "HTTP"
    return known if label is None else f"{known} {label}"


def _method(method: str) -> str:
    return method if method in HTTP else "_OTHER"


def _failed(call: FinishedCall) -> bool:
    """Whether it went wrong here or at the worker: a 4xx is an error of the caller alone."""
    return call.result in ("error", "aborted") and not 400 <= call.status < 500


@lru_cache(MAX_KNOWN)
def _own(
    method: str,
    path: str,
    label: str | None,
    status: int,
    result: str,
    failure: str | None,
    frontend: str,
    source: str,
    principal: str | None,
    attempts: int,
    estimated: bool,
) -> bytes:
    """What there is to tell of any call, and is the same for many."""
    return _attributes(
        ("http.request.method", _method(method)),
        ("url.path", path),
        ("http.route", label),
        ("http.response.status_code", status or None),
        ("error.type", (failure or str(status)) if result == "error" else None),
        ("gateway.result", result),
        ("gateway.frontend", frontend),
        ("gateway.source", source),
        ("gateway.principal", principal),
        ("gateway.attempts", attempts),
        ("gateway.usage.counted", estimated or None),
    )


def _attributes(*told: tuple[str | None, Value | None]) -> bytes:
    """Write the attributes of a span that have a name and a value."""
    return b"".join(
        [attribute(name, value) for name, value in told if name is not None and value is not None]
    )


def _gen_ai(call: FinishedCall, gen_ai: GenAi) -> Iterator[bytes]:
    """The attributes of generative AI, under the names of the chosen generation."""
    said = Said() if call.response is None else said_of(call.response)
    yield _usual(gen_ai, call.api or "", call.model, call.streams, said.model, said.reasons)
    if call.session_id is not None:
        yield varying("gen_ai.conversation.id", call.session_id)
    if said.id:
        yield varying("gen_ai.response.id", said.id)
    if call.asked:
        yield _asked(gen_ai, *call.asked)
    yield from _usage(call, gen_ai)


@lru_cache(MAX_KNOWN)
def _usual(
    gen_ai: GenAi,
    api: str,
    model: str | None,
    streams: bool,
    answered: str,
    reasons: tuple[str, ...],
) -> bytes:
    """The attributes that many calls share."""
    return _attributes(
        (gen_ai.name("gen_ai.operation.name"), operation_of(api)),
        (gen_ai.name("gen_ai.provider.name"), gen_ai.provider_of(api)),
        (gen_ai.name("gen_ai.request.model"), model),
        (gen_ai.name("gen_ai.request.stream"), streams or None),
        (gen_ai.name("gen_ai.response.model"), answered or None),
        (gen_ai.name("gen_ai.response.finish_reasons"), reasons or None),
    )


@lru_cache(MAX_KNOWN, typed=True)
def _asked(gen_ai: GenAi, *told: object) -> bytes:
    found = parameters_of(told)
    return _attributes(*[(gen_ai.name(latest), value) for latest, value in found.items()])


def _usage(call: FinishedCall, gen_ai: GenAi) -> Iterator[bytes]:
    """The tokens, and the time of the first event."""
    usage, first = call.usage, _first_chunk(call)
    if first is not None and not gen_ai.former:
        yield measured("gen_ai.response.time_to_first_chunk", first)
    if usage is None:
        return
    yield counted("gen_ai.usage.input_tokens", usage.prompt_tokens)
    yield counted("gen_ai.usage.output_tokens", usage.completion_tokens)
    if usage.cached_tokens and not gen_ai.former:
        yield counted("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
    if usage.reasoning_tokens and not gen_ai.former:
        yield counted("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens)


def _first_chunk(call: FinishedCall) -> float | None:
    """Seconds from the call's start to the first event of its stream."""
    if call.first_event is None or call.response is None or not call.response.stream:
        return None
    return max(0, call.first_event - call.began) / SECOND


def _events(call: FinishedCall) -> list[bytes]:
    found = list(_of_attempts(call))
    first = call.first_event if call.first_event is not None else call.first_byte
    if first is not None:
        found.append(event(first, event_named("gateway.first_token")))
    return found


def _of_attempts(call: FinishedCall) -> Iterator[bytes]:
    """How long the call waited, and what came between its attempts."""
    before: TriedWorker | None = None
    for attempt in call.attempts:
        if before is None:
            rest = event_named("gateway.queue", ("gateway.queue.duration", call.queue))
        else:
            worker = ("gateway.worker", attempt.worker)
            rest = event_named("gateway.retry", worker, ("gateway.retry.after", _ended(before)))
        yield event(attempt.began, rest)
        if attempt.ejected:
            rest = event_named("gateway.ejection", ("gateway.worker", attempt.worker))
            yield event(attempt.ended, rest)
        before = attempt


def _ended(tried: TriedWorker) -> str:
    """How an attempt ended, as `Attempt.result` says it."""
    return tried.error or ("gone" if tried.status is None else str(tried.status))


def _attempt(call: FinishedCall, place: int) -> bytes:
    tried = call.attempts[place]
    parts = [
        _ids(call, tried.span_id, call.span_id),
        _times(b"\x39", tried.began, b"\x41", tried.ended),
        _tried(
            call.method,
            call.path,
            call.label,
            tried.worker,
            tried.url,
            tried.reused,
            tried.status,
            tried.error,
            place,
        ),
    ]
    if tried.first_byte is not None:
        parts.append(event(tried.first_byte, event_named("gateway.first_byte")))
    return b"".join(parts)


@lru_cache(MAX_KNOWN)
def _tried(
    method: str,
    path: str,
    label: str | None,
    worker: str,
    url: str,
    reused: bool,
    status: int | None,
    error: str | None,
    place: int,
) -> bytes:
    """What there is to tell of an attempt, but for its ids and times."""
    failure = error or (str(status) if status is not None and status >= 400 else None)
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    attributes = _attributes(
        ("http.request.method", _method(method)),
        ("server.address", parts.hostname or None),
        ("server.port", port if parts.hostname else None),
        ("url.full", f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"),
        ("gateway.worker", worker),
        ("gateway.connection.reused", reused or None),
        ("http.response.status_code", status),
        ("error.type", failure),
        ("http.request.resend_count", place or None),
    )
    name = field(b"\x2a", utf8(_http_name(method, label)))
    return name + CLIENT + attributes + (b"" if failure is None else ERROR) + LOCAL
