"""W3C Trace Context (level 2) and W3C Baggage: the place of a call in a distributed trace.

A header that breaks the rules is ignored, as the recommendations say: an invalid `traceparent`
begins a new trace, and an invalid `tracestate` is dropped without harm to the `traceparent`.
"""

import re
from operator import itemgetter
from random import getrandbits  # reseeds itself in a forked process

import msgspec

from gateway.headers import HeaderLine, Headers, Lines

TRACEPARENT, TRACESTATE, BAGGAGE = b"traceparent", b"tracestate", b"baggage"

NAMES = frozenset({TRACEPARENT, TRACESTATE, BAGGAGE})

MAX_TRACEPARENT = 512
"""Maximum bytes of a `traceparent`; those of future versions may have more than 55."""

MAX_STATES = 32
"""Maximum members of a `tracestate`."""

MAX_BAGGAGE = 8_192
"""Maximum bytes of `baggage`: what each system has to pass on. Further members are dropped."""

SAMPLED, RANDOM = 1, 2

_PARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_STATE = re.compile(
    rb"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_PRINTABLE = re.compile(rb"[\t\x20-\x7e]+")
_SPACE = b" \t"
ALL = "g"
"""Above any hexadecimal digits."""

_NAME = itemgetter(0)
_FLAGS = {(False, False): "00", (True, False): "01", (False, True): "02", (True, True): "03"}


class TraceContext(msgspec.Struct):
    """The place of a call in a distributed trace. Plugins read it and never change it.

    `trace_id` has 32 hexadecimal digits. `span_id` has 16 and is that of the call's own span,
    `parent_id` that of the caller's span, None if the call begins the trace. `recorded`: a plugin
    takes part in the trace, so workers get the spans of attempts as parents. If it is false, no
    span of the gateway exists, and `span_id` is the caller's, if there is one. `sampled`: spans are
    recorded; before a plugin has decided, and if none takes part, what the caller says. `random`:
    the last 56 bits of the trace's id are random. `tracestate` and `baggage` are as received, in
    one line each, empty if there is none or it is invalid.
    """

    trace_id: str
    span_id: str
    parent_id: str | None = None
    sampled: bool = False
    recorded: bool = False
    random: bool = True
    tracestate: str = ""
    baggage: str = ""
    _told: bool = False  # whether the request has a header of these


def bound_of(ratio: float) -> str:
    """Return the digits above the last 16 of every trace id that is among this share."""
    return ALL if ratio >= 1 else f"{int(ratio * (1 << 64)):016x}"


def follows(context: TraceContext, bound: str) -> bool:
    """Return whether spans are recorded: as the caller says, else of a share of the traces.

    The last 16 digits decide, as in OpenTelemetry's sampler ParentBased(TraceIdRatioBased).
    """
    return context.sampled if context.parent_id is not None else context.trace_id[16:] < bound


def begun(headers: Headers, trace_id: str, bound: str) -> TraceContext | HeaderLine | None:
    """Return what a call has that begins a trace; None if the request has any header of a trace.

    That is its context if it is recorded, and else no more than the `traceparent` for the worker:
    what `read_context`, `decide` and `traced_headers` return, at a tenth of their cost.
    """
    digits = trace_id[16:]
    if not NAMES.isdisjoint(map(_NAME, headers)):
        return None
    if digits < bound:
        return TraceContext(trace_id, digits, sampled=True, recorded=True)
    return TRACEPARENT, f"00-{trace_id}-{digits}-02".encode()


def new_trace_id(created: float) -> str:
    """Return 32 hexadecimal digits: 12 for the milliseconds of `created`, then 20 random."""
    number = int(created * 1000) << 80 | getrandbits(80)
    return number.to_bytes(16, "big").hex()  # half the time of a format


def new_span_id() -> str:
    """Return 16 random hexadecimal digits, not all zero."""
    return (getrandbits(64) or 1).to_bytes(8, "big").hex()


def read_context(headers: Headers, trace_id: str) -> TraceContext:
    """Return the context that a request gives, with a new span.

    Without a valid `traceparent` it begins the trace `trace_id`, whose last 16 digits, which are
    random, are the span's, too: so it costs nothing.
    """
    found = [line for line in headers if line[0] in NAMES]
    context = TraceContext(trace_id, trace_id[16:])
    if found:
        context._told = True
        context.baggage = _baggage(_joined(found, BAGGAGE))
        parents = [value for name, value in found if name == TRACEPARENT]
        if len(parents) == 1:
            _join(context, parents[0].strip(_SPACE), found)
    return context


def decide(context: TraceContext, recorded: bool | None) -> TraceContext:
    """Complete a context, and return it.

    `recorded`: whether a plugin records the spans of the call; None: no plugin takes part.

    A span that nobody records must not become a parent. So the caller's context stays as it is if
    none takes part, and also if neither the caller nor a plugin records its spans.
    """
    if recorded is not None and (recorded or context.sampled or context.parent_id is None):
        context.recorded, context.sampled = True, recorded
    elif context.parent_id is not None:
        context.span_id = context.parent_id
    return context


def ids_of(call_id: str, context: TraceContext | None) -> dict[str, str]:
    """Return what a log record says of its call; None: it is part of no distributed trace."""
    if context is None:
        return {"call_id": call_id}
    return {"call_id": call_id, "trace_id": context.trace_id, "span_id": context.span_id}


def _join(context: TraceContext, parent: bytes, found: Lines) -> None:
    read = _PARENT.fullmatch(parent) if len(parent) <= MAX_TRACEPARENT else None
    if read is None or (read[1] == b"00" and read[5] is not None):
        return
    flags = int(read[4], 16)
    context.trace_id, context.parent_id = read[2].decode(), read[3].decode()
    context.span_id = new_span_id()
    context.sampled, context.random = bool(flags & SAMPLED), bool(flags & RANDOM)
    context.tracestate = _tracestate(_joined(found, TRACESTATE))


def _joined(found: Lines, name: bytes) -> bytes:
    """Combine several lines of one name, as RFC 9110 says (5.3)."""
    return b",".join([value for key, value in found if key == name])


def _tracestate(value: bytes) -> str:
    members = [one for part in value.split(b",") if (one := part.strip(_SPACE))]
    if len(members) > MAX_STATES or not all(map(_STATE.fullmatch, members)):
        return ""
    return b",".join(members).decode()


def _baggage(value: bytes) -> str:
    if len(value) > MAX_BAGGAGE:
        value = value[: MAX_BAGGAGE + 1].rpartition(b",")[0]
    value = value.strip(_SPACE)
    return value.decode() if _PRINTABLE.fullmatch(value) else ""


def traced_headers(headers: Headers, context: TraceContext, span_id: str) -> Headers:
    """Return the headers for a worker, whose parent is the span `span_id`.

    They are the caller's own if no plugin takes part in the trace.
    """
    if not context.recorded:
        return headers
    flags = _FLAGS[context.sampled, context.random]
    parent = (TRACEPARENT, f"00-{context.trace_id}-{span_id}-{flags}".encode())
    if not context._told:  # nearly always
        return [*headers, parent]
    lines = [line for line in headers if line[0] not in NAMES]
    lines.append(parent)
    if context.tracestate:
        lines.append((TRACESTATE, context.tracestate.encode()))
    if context.baggage:
        lines.append((BAGGAGE, context.baggage.encode()))
    return lines
