"""The objects that hooks receive: a Call, its Attempts at workers, and its Outcome."""

import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from gateway.calls.body import Body, parse_object, refuse_other_formats
from gateway.calls.cancel import NO_WAIT, CancelScope
from gateway.calls.observers import UNOBSERVED
from gateway.calls.records import Attempt, Continuation, Outcome, Principal, Source, told_attempts
from gateway.calls.reply import Caller, Reply
from gateway.calls.state import State
from gateway.errors import CallerGone, CallError, InvalidJSON
from gateway.fleet.worker import Worker
from gateway.headers import Headers, checked_line, get_header, request_id
from gateway.storage.sink import Entry, Sink
from gateway.telemetry.trace_context import TraceContext, decide, ids_of, new_trace_id, read_context
from gateway.trace import Harness, Reason
from gateway.wire.apis.openai_files import model_of_path
from gateway.wire.apis.registry import api_of, dialect_of
from gateway.wire.dialect import Api, Dialect
from gateway.wire.injection import Injection
from gateway.wire.naming.forms import named_model, query_model
from gateway.wire.request import RequestHead, is_true, read_head

ONLY_USAGE = ("usage",)
_NO_HEAD = RequestHead()
NOTHING: Mapping[str, object] = MappingProxyType({})


class Call:
    """One request on its way through the gateway, with the data that plugins attach to it.

    `path` is as the caller sent it, without the session prefix and the query, percent-encoding
    kept; `headers` are the caller's own. `started` is `time.monotonic()`, `created` is Unix time.
    `source` is the kind of work: realtime, batch or eval. `frontend` names the front end that the
    call came by: http, or another one; internal if it came by none. `peer_names` are the names in
    the caller's certificate if the front end has verified one: no header can set them. An
    `internal` call comes from one of the gateway's own jobs and is not authenticated; its
    `principal` is the one that the job runs for, or None. `runs_again`, if a job sets it, says when
    the call is over whether the job's work runs again in another call; a job that sets it also does
    so if this process dies. It is asked once for each call, before `call_finished`, for
    `outcome.repeated`, and must not raise. `scope` is the scope that the principal needs if it is
    not that of all calls, see gateway.pipeline.authorization. `tried` are the workers that have
    failed it and are not asked again; a worker whose latest attempt is `refused` may be asked
    later. `overwritten` are the top-level keys of the body that plugins `set`, with their values.
    `waits_for_commit`: an item must be committed before the last byte. `recorded`: it has a trace.
    `translated_from` is the API of a call that is carried as another API's: `path`, `query` and
    `body` are the worker's, and `asked_path` is always the caller's. `harness` is the program
    behind the caller, `run_id` the run that its session belongs to, if plugins know them.
    `continuation` has a stream that breaks off carried on.
    """

    # Those with an underscore are for the Exchange of the call, see gateway.pipeline.exchange.
    __slots__ = (
        "_added",
        "_caller",
        "_cancel_scope",
        "_entries",
        "_head",
        "_json",
        "_observers",
        "_reply",
        "_response_headers",
        "_samples",
        "_trace_context",
        "_trace_id",
        "_wanted",
        "asked_path",
        "attempts",
        "body",
        "client",
        "continuation",
        "counts_tokens",
        "created",
        "deadline",
        "dialect",
        "frontend",
        "harness",
        "headers",
        "id",
        "internal",
        "method",
        "notes",
        "outcome",
        "overwritten",
        "path",
        "peer_names",
        "principal",
        "query",
        "recorded",
        "run_id",
        "runs_again",
        "scope",
        "session_id",
        "source",
        "started",
        "state",
        "translated_from",
        "tried",
        "waits_for_commit",
    )

    def __init__(
        self,
        caller: Caller,
        *,
        method: str,
        path: str,
        query: bytes = b"",
        headers: Headers = (),
        body: Body | None = None,
        session_id: str | None = None,
        client: str | None = None,
        principal: Principal | None = None,
        source: Source = "realtime",
        internal: bool = False,
        scope: str | None = None,
        runs_again: "Callable[[Call], bool] | None" = None,
        frontend: str = "http",
        peer_names: tuple[str, ...] = (),
        started: float | None = None,
    ) -> None:
        self.method = method
        self.path = self.asked_path = path
        self.query, self.headers = query, headers
        self.body = body or Body(b"")
        self.run_id: str | None = None
        self.harness: Harness | None = None
        self.client, self.peer_names, self.session_id = client, peer_names, session_id
        self.started = time.monotonic() if started is None else started
        self.created = time.time()
        known = get_header(headers, b"x-request-id")
        self._trace_id = None if known else new_trace_id(self.created)
        self.id = self._trace_id or request_id(known)
        self.deadline: float | None = None  # monotonic: so long the caller waits, if it says so
        self.dialect: Dialect | None = dialect_of(path)
        self.principal, self.scope = principal, scope
        self.source: Source = source
        self.internal, self.runs_again = internal, runs_again
        self.frontend = "internal" if internal else frontend
        self.continuation: Continuation | None = None
        self.attempts: list[Attempt] = []
        self.tried: list[Worker] = []
        self.outcome = Outcome()
        self.state, self.overwritten = State(), NOTHING
        self.counts_tokens, self.waits_for_commit, self.recorded = False, False, True
        self.translated_from: Api | None = None
        self.notes: Mapping[Reason, str] = {}
        self._caller, self._cancel_scope = caller, CancelScope()
        self._reply = Reply(caller, self.outcome, self.started)
        self._observers = UNOBSERVED
        self._entries: list[Entry] = []
        self._response_headers: list[tuple[bytes, bytes]] | None = None
        self._trace_context: TraceContext | None = None
        self._samples: Callable[[Call, TraceContext], bool | None] | None = None
        self._json: dict[str, Any] | None = None
        self._head: RequestHead | None = None
        self._added: Mapping[str, object] | None = None
        self._wanted: frozenset[Injection] | None = None

    def header(self, name: str) -> str | None:
        """Return the first value of a request header, or None. `name` is case-insensitive."""
        value = get_header(self.headers, name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    @property
    def trace_id(self) -> str:
        """Unique id that the gateway gives to this call; `id`, unless the caller has chosen that.

        32 hexadecimal digits: 12 for the time in milliseconds, as UUID 7 begins, then 20 random.
        """
        self._trace_id = found = self._trace_id or new_trace_id(self.created)
        return found

    @property
    def trace_context(self) -> TraceContext:
        """The call's place in the distributed trace of its caller, or in one that it begins.

        A new trace has the call's `trace_id`. The first use asks plugins for `sample_trace`.
        """
        return self._trace_context or self._begin_trace()

    @property
    def distributed_trace(self) -> TraceContext | None:
        """The trace context; None if the caller sent no valid one and no plugin takes part."""
        if not (self._trace_context or self._samples or get_header(self.headers, b"traceparent")):
            return None
        context = self.trace_context
        return None if context.parent_id is None and not context.recorded else context

    def _begin_trace(self) -> TraceContext:
        self._trace_context = context = read_context(self.headers, self.trace_id)
        return decide(context, None if self._samples is None else self._samples(self, context))

    def log_extra(self) -> dict[str, str]:
        """Return `extra` for log records about the call: its id, and those of its trace."""
        return ids_of(self.id, self.distributed_trace)

    @property
    def prompt_estimate(self) -> int:
        """Estimated prompt tokens: one for each four bytes of the request body."""
        return self.body.prompt_estimate

    @property
    def completion_so_far(self) -> int:
        """Approximate tokens of a stream received so far; 0 if no plugin requested a count."""
        return self._observers.tokens_so_far

    @property
    def worker(self) -> Worker | None:
        """The worker of the latest attempt."""
        return self.attempts[-1].worker if self.attempts else None

    @property
    def model(self) -> str | None:
        """The requested model: of the body, JSON or a form, else of the query, else of the path.

        None if none is named. A body that was not read whole names one only if it is a form, and
        has it in the first bytes.
        """
        if self.overwritten is not NOTHING:
            pinned = self.overwritten.get("model")
            if isinstance(pinned, str):
                return pinned
        return (self._head or self._read_head()).model

    @property
    def streams(self) -> bool:
        """Whether the request asks for an event stream, as vLLM reads `stream`.

        False if the body was not read whole.
        """
        if self.overwritten is not NOTHING and "stream" in self.overwritten:
            return is_true(self.overwritten["stream"])
        return (self._head or self._read_head()).streams

    def _read_head(self) -> RequestHead:
        data = self.body.readable
        if data:
            self._head = read_head(data, self.body.fields)
            self.body.may_have_several = self._head.several
            if self._head.model is not None:
                return self._head
        elif self.method in ("GET", "HEAD"):
            return RequestHead(query_model(self.query) or model_of_path(self.path))
        elif not (self.query or self.body.begun):
            return _NO_HEAD
        return self._read_form()

    def _read_form(self) -> RequestHead:
        """Look for the model where no JSON is: in a form, or in the query."""
        data, kind = self.body.data, get_header(self.headers, b"content-type") or b""
        begun = self.body.begun if data is None else data
        model = named_model(begun, kind, self.query, whole=data is not None)
        found = RequestHead(model, (self._head or _NO_HEAD).streams)
        if data is not None:
            self._head = found
        return found

    @property
    def api(self) -> Api | None:
        """What the gateway knows of the path's API; None if it does not know the path."""
        return api_of(self.path)

    def add_header(self, name: str, value: str) -> None:
        """Add a header line to the response, whether it comes from a worker or not.

        An observer's `started` is the latest place to call it; `call.worker` has just responded
        then. Raises ValueError if the line is not a valid header.
        """
        self.add_lines(checked_line(name, value))

    def add_lines(self, *lines: tuple[bytes, bytes]) -> None:
        """Add several lines known to be valid, names in lower case; cheaper than `add_header`."""
        self._response_headers = [*(self._response_headers or ()), *lines]

    def keep_alive(self) -> None:
        """Send an SSE comment to a caller that requested a stream and waits for it to begin.

        The first comment also sends the head of the response: any response other than an event
        stream is then sent as an `error` event. Comments are not part of the response, and only the
        caller sees them.
        """
        self._reply.comment(gateway_headers(self))

    def cancel(self, error: CallError | CallerGone) -> None:
        """End the call with `error` at its next wait, for front ends: the first error counts.

        Once the response has begun, it is broken off; `stream_errors` decides if a stream gets
        `error` as its last event.
        """
        self._cancel_scope.cancel(error)

    async def json(self) -> dict[str, Any]:
        """Return the caller's body as a JSON object, parsed once; to change it, use `set`.

        Raises InvalidJSON (400) if it is not a JSON object, BodyTooLarge (413) above the limit.
        """
        if self.body.data is None:
            await self.body.read()
        return self._parse() if self._json is None else self._json

    def _parse(self) -> dict[str, Any]:
        try:
            self._json = parse_object(self.body.readable or b"")
        except InvalidJSON:
            refuse_other_formats(self.headers)
            raise
        return self._json

    @property
    def parsed(self) -> Mapping[str, Any] | None:
        """The caller's body as `json` has parsed it; None as long as nobody has asked for it."""
        return self._json

    def _check_object(self) -> None:
        """Raise InvalidJSON if the body, which has been read, is no JSON object."""
        if self._json is None and self.body.fields is None:
            self._parse()

    def _known(self) -> dict[str, Any]:
        """Return the caller's body as an object; without keys if it is not known to be one."""
        if self._json is None and self.body.fields is not None:
            self._parse()
        return self._json or {}

    def set(self, key: str, value: object) -> Awaitable[None]:
        """Send `value` under a top-level key of the body; all other bytes stay unchanged.

        To be awaited, or returned by a plain `prepare`. Raises the exceptions of `json`.
        """
        if self.body.data is None:
            return self._read_and_set(key, value)
        self._check_object()
        self.overwritten = {**self.overwritten, key: value}
        return NO_WAIT

    async def _read_and_set(self, key: str, value: object) -> None:
        await self.body.read()
        self.set(key, value)

    def inject(self, *wanted: Injection) -> Awaitable[None]:
        """Request data that the caller may not have requested: token_ids, logprobs, usage.

        Observers get the response with it, the caller gets the response without it. Does nothing if
        the path's dialect has no such field, or if the caller requested the data. To be awaited, or
        returned by a plain `prepare`. Raises the exceptions of `json`.
        """
        if self.dialect is None or self.method != "POST":
            return NO_WAIT
        if self.body.data is None:
            return self._read_and_inject(wanted)
        if wanted == ONLY_USAGE and not self.streams:
            return NO_WAIT  # a plain response always has it
        self._check_object()
        injections = frozenset(wanted)
        self._wanted = injections if self._wanted is None else self._wanted | injections
        return NO_WAIT

    async def _read_and_inject(self, wanted: tuple[Injection, ...]) -> None:
        await self.body.read()
        self.inject(*wanted)

    def note(self, reason: Reason, words: str) -> None:
        """Give a reason for which the trace is INCOMPLETE; in `call_finished` at the latest."""
        self.notes = {**self.notes, reason: words}

    def count_tokens(self) -> None:
        """Set `outcome.usage` at the end of the call, for `finished` and `call_finished`.

        Call it in `observe` at the latest. It is cheap: the gateway reads only the end of the
        response, and the whole of a stream only if the engine did not report the usage.
        """
        self.counts_tokens = True

    def store(self, sink: Sink, item: object, size: int, *, lazy: bool = False) -> None:
        """Have `sink` store `item` (about `size` bytes in memory) in the call's transaction.

        For `call_finished` and observers' `finished`. All items that plugins store for one call are
        committed together, before the caller gets the last byte. If all of them are `lazy`, the
        commit follows shortly after, unless it must survive a power cut (`storage.durability`).
        """
        self._entries.append(Entry(sink, item, size, lazy))
        if not lazy:
            self.waits_for_commit = True

    @property
    def injected(self) -> Mapping[str, object]:
        """Top-level keys that `inject` added to the latest attempt's body, with their values."""
        return self._added or {}


def gateway_headers(call: Call) -> list[tuple[bytes, bytes]]:
    """Header lines that the gateway adds to a response: the id, the attempts if several."""
    lines = [(b"x-request-id", call.id.encode())]
    if call.attempts[1:] and (ways := told_attempts(call.attempts)):
        lines.append((b"x-gateway-attempts", ways.encode()))
    return [*lines, *(call._response_headers or ())]
