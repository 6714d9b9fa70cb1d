"""What the event loop takes from a call when it ends: plain values, of which spans are made later.

Nothing here refers to the call, whose request and response would stay in memory with it.
"""

import msgspec

from gateway import LINKED, Attempt, Body, Call, Outcome, Usage
from gateway_plugins.otel.parameters import PARAMETERS
from gateway_plugins.otel.response import Watched

SECOND = 1_000_000_000

MAX_CHARS = 1_024
"""Maximum characters of a text that a caller or a worker may have made up."""

MAX_NUMBER = 40
"""Maximum characters of a number in a request."""


class TriedWorker(msgspec.Struct, frozen=True):
    """One attempt. Times are Unix nanoseconds, None if not reached.

    `error` is the code of the error that ended it. `ejected`: the circuit breaker ejected the
    worker during the attempt or because of it.
    """

    span_id: str
    worker: str
    url: str
    began: int
    ended: int
    first_byte: int | None
    reused: bool
    status: int | None
    error: str | None
    ejected: bool


class FinishedCall(msgspec.Struct, frozen=True):
    """One call. Times are Unix nanoseconds, texts are cut.

    `api` is the name of the API, None if the gateway does not know the path; `manages`: the call is
    no work of a model. `asked` are its sampling parameters, see `_asked`. `linked` is the
    `traceparent` of the request that caused it and whose trace it is no part of. `content` is the
    request's body, if content is recorded. `queue` and `overhead` are seconds, see Outcome.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    tracestate: str
    call_id: str
    method: str
    path: str
    label: str | None
    api: str | None
    manages: bool
    frontend: str
    source: str
    session_id: str | None
    principal: str | None
    model: str | None
    streams: bool
    asked: tuple[object, ...]
    began: int
    ended: int
    first_byte: int | None
    first_event: int | None
    status: int
    result: str
    failure: str | None
    queue: float
    overhead: float | None
    usage: Usage | None
    attempts: tuple[TriedWorker, ...]
    response: Watched | None
    linked: str | None = None
    content: bytes | None = None


def record_of(
    call: Call, outcome: Outcome, watched: Watched | None, content: bytes | None = None
) -> FinishedCall:
    context, api, principal = call.trace_context, call.api, call.principal
    session_id, model = call.session_id, call.model
    began = int(call.created * SECOND)
    base = began - int(call.started * SECOND)
    ttft, first = outcome.ttft, None
    if watched is not None and watched.first is not None:
        first = watched.first.first
    return FinishedCall(
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=context.parent_id,
        tracestate=context.tracestate,
        call_id=call.id,
        method=call.method,
        path=call.asked_path[:MAX_CHARS],
        label=None if api is None else api.label(call.path),
        api=None if api is None else api.name,
        manages=api is not None and api.work in ("manages", "converts"),
        frontend=call.frontend,
        source=call.source,
        session_id=session_id and session_id[:MAX_CHARS],
        principal=None if principal is None else principal.id[:MAX_CHARS],
        model=model and model[:MAX_CHARS],
        streams=call.streams,
        asked=_asked(call.body),
        began=began,
        ended=began + int(outcome.duration * SECOND),
        first_byte=None if ttft is None else began + int(ttft * SECOND),
        first_event=base + int(first * SECOND) if first else None,
        status=outcome.status,
        result=outcome.result,
        failure=outcome.error_code,
        queue=outcome.queue,
        overhead=outcome.overhead,
        usage=outcome.usage,
        attempts=tuple([_tried(attempt, base) for attempt in call.attempts]),
        response=watched,
        linked=call.state.get(LINKED),
        content=content,
    )


def _tried(attempt: Attempt, base: int) -> TriedWorker:
    began = base + int(attempt.started * SECOND)
    ended, first, worker = attempt.ended, attempt.first_byte, attempt.worker
    return TriedWorker(
        span_id=attempt.span_id,
        worker=worker.id,
        url=worker.url,
        began=began,
        ended=began if ended is None else base + int(ended * SECOND),
        first_byte=None if first is None else base + int(first * SECOND),
        reused=attempt.reused,
        status=attempt.status,
        error=None if attempt.error is None else attempt.error.code,
        ejected=bool(worker.conditions) and _ejected(attempt, began),
    )


def _ejected(attempt: Attempt, began: int) -> bool:
    return any(
        one.state == "ejected" and one.since * SECOND >= began
        for one in attempt.worker.conditions.values()
    )


def _asked(body: Body) -> tuple[object, ...]:
    """The sampling parameters, as far as the kernel has read them: a name and a value by turns.

    Of a value that the kernel has only found, such as a number with a point, the bytes.
    """
    fields, data = body.fields, body.readable
    if not fields or data is None:
        return ()
    found: list[object] = []
    for name in PARAMETERS:
        if name in fields:
            told: object = fields[name]
            if isinstance(told, tuple):
                begin, end = told
                told = data[begin:end] if end - begin <= MAX_NUMBER else None
            found += name, told
    return tuple(found)
