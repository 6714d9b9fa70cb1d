"""A call and what carries it: chains of hooks, the caller, the reply, observers, injections.

Plugins see the Call; the pipeline takes its Exchange.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from gateway.calls.body import Body
from gateway.calls.call import Call
from gateway.calls.callers.translating import Failure, TranslatingCaller
from gateway.calls.observers import UNOBSERVED, Observers
from gateway.calls.records import Attempt
from gateway.calls.reply import Caller
from gateway.calls.state import State
from gateway.config.model import ServerTiming
from gateway.errors import CallError, UpstreamError
from gateway.headers import HeaderLine, Headers
from gateway.kernel.interface import Fields
from gateway.plugins.chains import Chains, Later
from gateway.telemetry.metrics import Histogram
from gateway.telemetry.server_timing import Shares, comment_of
from gateway.telemetry.trace_context import TraceContext, begun
from gateway.wire.apis.registry import dialect_of
from gateway.wire.dialect import Engine
from gateway.wire.injection import Stripper, inject
from gateway.wire.rewriting import set_keys
from gateway.wire.stripping.sglang import asks_sglang
from gateway.wire.translation.translation import GivenUp, Translation

T = TypeVar("T")


def _nobody(call: Call, context: TraceContext) -> bool:
    """The decision that has been made: the call is not recorded."""
    return False


class Reading(Protocol):
    """A Reader, see gateway.pipeline.readers."""

    rewrites: bool

    def feed(self, data: bytes) -> bytes: ...
    def close(self) -> bytes: ...


class Part:
    """A stream that has begun, and that another worker may carry on.

    `reader` and `headers` are those of its beginning, `recent` its last reads. `release` sends what
    waits for the end of the stream; it is called if the end will not come.
    """

    __slots__ = ("headers", "reader", "recent", "release")

    def __init__(self, reader: Reading, headers: Headers) -> None:
        self.reader = reader
        self.headers = headers
        self.recent: tuple[bytes, ...] = ()
        self.release: Callable[[], None] | None = None


class Exchange:
    """One call while it runs. It alone uses the private attributes of its Call.

    `chains` are the hooks that were in force when the call began, `reply` goes to the caller.
    `traceparent` is the line that the worker gets of a call that begins a trace and is not
    recorded; None of any other call. `entries` is everything that plugins store for the call, in
    one transaction. `stripper` removes from the latest attempt's response what was injected, None
    if nothing was. `settling` is what the last bytes of the response have to wait for, if they have
    to. `failure` says whether a translated response was replaced by an error. `part` is set once a
    stream has begun that another worker may carry on, see gateway.pipeline.migration.
    """

    __slots__ = (
        "_overhead",
        "_told",
        "call",
        "cancel_scope",
        "chains",
        "entries",
        "failure",
        "observers",
        "part",
        "reply",
        "settling",
        "stripper",
        "traceparent",
    )

    def __init__(self, call: Call, chains: Chains) -> None:
        self.call = call
        call.body.kernel = chains.kernel
        self.traceparent: HeaderLine | None = None
        if chains.traced:
            chains = self._sample(chains)
        self.chains = chains
        self.reply = call._reply
        self.cancel_scope = call._cancel_scope
        self.entries = call._entries
        self.observers = UNOBSERVED
        self.stripper: Stripper | None = None
        self.settling: TranslatingCaller | None = None
        self.failure: Failure | None = None
        self.part: Part | None = None

    def _sample(self, chains: Chains) -> Chains:
        """Decide at once whether spans are recorded, if plugins have only ratios.

        Returns the chains without the plugins that are not concerned.
        """
        call = self.call
        if chains.unrecorded is None or chains.bound is None:
            call._samples = chains.samples
            return chains
        trace_id = call._trace_id or call.trace_id
        found = begun(call.headers, trace_id, chains.bound)
        if type(found) is tuple:
            self.traceparent, call._samples = found, _nobody
            return chains.unrecorded
        call._samples = chains.samples
        if type(found) is TraceContext:
            call._trace_context = found
            return chains
        return chains if call.trace_context.sampled else chains.unrecorded

    async def pin(self, model: str) -> None:
        """Replace the requested model with `model` if the body is a JSON object."""
        if self.call.method == "POST" and await self.call.body.is_object():
            await self.call.set("model", model)

    def translate(self, max_bytes: int) -> Later:
        """Carry the call as the hooks say; `max_bytes` is the limit of a plain response.

        Raises CallError if a hook rejects the call or fails.
        """
        return self.chains.run_translate(self.call, partial(self._carry_as, max_bytes))

    def _carry_as(self, max_bytes: int, translation: Translation) -> None:
        """Take the translated request in place of the caller's; what was set in it is kept."""
        call = self.call
        self.failure = failure = self.failure or Failure()

        def through(caller: Caller, streams: bool) -> Caller:
            way, settling = translation.response, translation.settling
            made = TranslatingCaller(
                caller,
                way,
                call.id,
                max_bytes,
                streams=streams,
                failure=failure,
                settling=settling,
            )
            self.settling = made if settling is not None else self.settling
            return made

        call.translated_from = call.translated_from or call.api
        call.path, call.query, call.dialect = translation.path, b"", dialect_of(translation.path)
        waited, call.body = call.body.waited, Body(translation.body)
        call.body.waited = waited
        call.body.kernel = self.chains.kernel
        call._json = call._head = None
        call._caller = self.reply.translate(through)

    def note_failure(self) -> None:
        """Note that the caller got an error for what the worker has sent, if it did."""
        failure, outcome = self.failure, self.call.outcome
        if failure is None or (unreadable := failure.unreadable) is None:
            return
        outcome.status = failure.status
        if outcome.error is None:
            outcome.error = UpstreamError(str(unreadable))
        if not isinstance(unreadable, GivenUp):  # else the response itself says so
            self.call.note("response_not_translated", str(unreadable))

    def tell_times(self, told: ServerTiming, overhead: Histogram) -> None:
        """Add the gateway's own share to `overhead`, and tell the caller, who is known now."""
        self._told = told
        self._overhead = overhead
        self.reply.timed = self._measure
        if told == "comment":
            self.reply.closing = self._closing

    async def queued(self, waiting: Awaitable[T]) -> T:
        """Await something for which the call waits in a queue; the body's arrival is no part."""
        body, began = self.call.body, monotonic() - self.call.body.waited
        try:
            return await waiting
        finally:
            self.call.outcome.queue += monotonic() - began - body.waited

    def _measure(self) -> HeaderLine | None:
        """Take the time at which the head goes to the caller; return the line that tells it."""
        call, outcome, attempts = self.call, self.call.outcome, self.call.attempts
        own = monotonic() - call.started - outcome.queue - call.body.waited
        shares = Shares(outcome.queue, own)
        for attempt in attempts:
            if attempt.heard is None or attempt is not attempts[-1]:
                shares.failed += (attempt.ended or attempt.started) - attempt.started
            else:
                from_request = attempt.heard - (attempt.sent or attempt.started)
                shares.worker = from_request - attempt.uploading
                shares.connect = attempt.connecting
                shares.gateway -= from_request + shares.connect
        shares.gateway = outcome.overhead = max(0.0, shares.gateway - shares.failed)
        self._overhead.add(outcome.overhead)
        return None if self._told == "none" else shares.line()

    def _closing(self) -> bytes:
        now, call = monotonic(), self.call
        if not call.attempts:
            return comment_of(now - call.started, None, 0.0)
        attempt = call.attempts[-1]
        sent, ended = attempt.sent or attempt.started, attempt.ended or now
        return comment_of(now - call.started, ended - sent, now - ended)

    async def settle(self, last: bytes) -> None:
        """Wait for what the `last` bytes of a translated response need. Raises CallError."""
        if self.settling is not None and self.reply.tell_head():
            await self.settling.settle(last)

    def observe(self, observers: Observers) -> None:
        """Show the response to `observers` from now on."""
        self.observers = self.call._observers = observers

    def refusal(self, error: CallError) -> bytes:
        """Return the body of an error of the gateway, in the envelope of the caller's API."""
        call, body = self.call, error.body()
        api = call.api if call.translated_from is None else None  # else its translator does it
        if api is None or api.refusal is None:
            return body
        return api.refusal(error.status, body, call.id)

    def asked(self) -> dict[str, object]:
        """Return the request as plugins have changed it, before any injection."""
        return {**self.call._known(), **self.call.overwritten}

    def prepare_body(self, attempt: Attempt) -> bytes | None:
        """Return the body for the attempt's worker, with changes and the injections it accepts.

        Sets `stripper` and `call.injected` for this attempt. None if the body has not been read.
        """
        call = self.call
        data = call.body.data
        if data is None or not (call.overwritten or call._wanted):
            return data
        fields = call.body.fields
        if call.dialect is None or not call._wanted:
            return set_keys(data, call.overwritten, fields)
        refused = attempt.left_out | attempt.worker.refusals.of(call.dialect.name, self.asked)
        engine = attempt.worker.refusals.engine.now()
        if engine is not None and asks_sglang(call.headers):
            refused |= {"token_ids"}
        wanted = call._wanted - refused if refused else call._wanted
        found, self.stripper = inject(call.dialect, self._keys(fields), wanted, self.asked, engine)
        call._added = found.changes
        if call.overwritten:
            return set_keys(data, {**call.overwritten, **found.changes}, fields)
        return set_keys(data, found.changes, fields, found.added)

    def strip_injected(self, engine: Engine | None) -> None:
        """Have what plugins inject taken out of the response, which no worker sends.

        `engine` is the one whose own way of asking was taken for it. Sets `stripper` and
        `call.injected`.
        """
        call, wanted = self.call, self.call._wanted
        if call.dialect is not None and wanted:
            keys = self._keys(call.body.fields)
            found, self.stripper = inject(call.dialect, keys, wanted, self.asked, engine)
            call._added = found.changes

    def _keys(self, fields: Fields | None) -> Mapping[str, object]:
        """Return the keys of the request; a value may be only the place of one."""
        known = self.call._known() if fields is None else fields
        return {**known, **self.call.overwritten} if self.call.overwritten else known

    def release(self) -> None:
        """Release the objects that plugins attached to the call, once it is over.

        Most of them refer to the call. Only the garbage collector would free such a cycle, and
        everything that the call holds would stay in memory until then.
        """
        call = self.call
        if self.settling is not None:
            self.settling.close()
        self.observers = call._observers = UNOBSERVED
        self.reply.timed = self.reply.closing = self.part = None
        call.state = State()
        call._entries = self.entries = []
        if call.outcome.error is not None:
            _forget_frames(call.outcome.error)
        for attempt in call.attempts:
            if attempt.error is not None:
                _forget_frames(attempt.error)


def _forget_frames(error: CallError) -> None:
    """Release the frames that the error's traceback refers to, which hold the call."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
