"""What the event loop takes from a call when it ends: plain values, of which spans are made later.

Nothing here refers to the call, whose request and response would stay in memory with it.
"""

from collections.abc import Mapping

import msgspec

from gateway import Attempt, Call, Outcome, Usage
from gateway_plugins.otel.response import Watched

SECOND = 1_000_000_000

Value = str | bool | int | float | tuple[str, ...]

PARAMETERS: Mapping[str, str] = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "reasoning_effort": "gen_ai.request.reasoning.level",
}
"""Fields of requests, and the attributes that they are."""

FLOATS = frozenset(("temperature", "top_p", "frequency_penalty", "presence_penalty"))
TEXTS = frozenset(("reasoning_effort",))

MAX_CHARS = 1_024
"""Maximum characters of a text that a caller or a worker may have made up."""

MAX_NUMBER = 40
"""Maximum characters of a number in a request."""


class TriedWorker(msgspec.Struct, frozen=True):
    """One attempt. Times are Unix nanoseconds, None if not reached.

    `refused`: an error or a status that is one; `failure` is its code then. `ejected`: the circuit
    breaker ejected the worker during the attempt or because of it.
    """

    span_id: str
    worker: str
    url: str
    began: int
    ended: int
    first_byte: int | None
    reused: bool
    status: int | None
    result: str
    failure: str | None
    ejected: bool


class FinishedCall(msgspec.Struct, frozen=True):
    """One call. Times are Unix nanoseconds, texts are cut.

    `api` is the name of the API, None if the gateway does not know the path; `manages`: the call is
    no work of a model. `parameters` are attributes. `content` is the request's body, if content is
    recorded. `queue` and `overhead` are seconds, see Outcome.
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
    parameters: Mapping[str, Value]
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
    content: bytes | None = None


def cut(value: str) -> str:
    """Return at most MAX_CHARS of a text, in which nothing is that UTF-8 cannot encode."""
    if value.isascii() and len(value) <= MAX_CHARS:
        return value
    return value[:MAX_CHARS].encode(errors="replace").decode()


def record_of(
    call: Call, outcome: Outcome, watched: Watched | None, content: bytes | None = None
) -> FinishedCall:
    context, api = call.trace_context, call.api
    began = int(call.created * SECOND)
    base = began - int(call.started * SECOND)
    ttft, first = outcome.ttft, None if watched is None else watched.first.first
    return FinishedCall(
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=context.parent_id,
        tracestate=context.tracestate,
        call_id=cut(call.id),
        method=call.method,
        path=cut(call.asked_path),
        label=None if api is None else api.label(call.path),
        api=None if api is None else api.name,
        manages=api is not None and api.work in ("manages", "converts"),
        frontend=call.frontend,
        source=call.source,
        session_id=call.session_id and cut(call.session_id),
        principal=None if call.principal is None else cut(call.principal.id),
        model=call.model and cut(call.model),
        streams=call.streams,
        parameters=parameters_of(call),
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
        content=content,
    )


def _tried(attempt: Attempt, base: int) -> TriedWorker:
    began = base + int(attempt.started * SECOND)
    ended, first = attempt.ended, attempt.first_byte
    return TriedWorker(
        span_id=attempt.span_id,
        worker=attempt.worker.id,
        url=attempt.worker.url,
        began=began,
        ended=began if ended is None else base + int(ended * SECOND),
        first_byte=None if first is None else base + int(first * SECOND),
        reused=attempt.reused,
        status=attempt.status,
        result=attempt.result,
        failure=_failure(attempt),
        ejected=_ejected(attempt, began),
    )


def _failure(attempt: Attempt) -> str | None:
    if attempt.error is not None:
        return attempt.error.code
    status = attempt.status
    return str(status) if status is not None and status >= 400 else None


def _ejected(attempt: Attempt, began: int) -> bool:
    conditions = attempt.worker.conditions
    return bool(conditions) and any(
        one.state == "ejected" and one.since * SECOND >= began for one in conditions.values()
    )


def parameters_of(call: Call) -> Mapping[str, Value]:
    """Return the sampling parameters of the request, as far as the kernel has read its fields."""
    fields, data = call.body.fields, call.body.readable
    if not fields or data is None:
        return {}
    found: dict[str, Value] = {}
    for name, attribute in PARAMETERS.items():
        if name not in fields:
            continue
        told: object = fields[name]
        if isinstance(told, tuple):  # where it is: a number with a point, or a long text
            told = _number(data[told[0] : told[1]])
        if (value := _valid(name, told)) is not None:
            found[attribute] = value
    if found.get("gen_ai.request.choice.count") == 1:
        del found["gen_ai.request.choice.count"]
    return found


def _number(text: bytes) -> float | None:
    try:
        return float(text) if len(text) <= MAX_NUMBER else None
    except ValueError:
        return None


def _valid(name: str, told: object) -> Value | None:
    if name in TEXTS:
        return told if isinstance(told, str) else None
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    if name in FLOATS:
        return float(told)
    return told if isinstance(told, int) and abs(told) < 1 << 63 else None
