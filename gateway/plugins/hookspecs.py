"""Every hook: when it is called, what it may do, and what happens if it fails.

A plugin implements any of these with `@hookimpl` and takes the arguments it needs by their names.
The implementations of a hook run in the order of the configuration file.

Hooks that decide (`authenticate` to `pick_worker`) fail closed: if they raise a CallError, it is
the response to the caller; any other exception is a 500 `hook_failed`. No worker sees the call.
Hooks that watch (`observe`, `attempt_finished`, `call_finished`, and every method of an observer)
are isolated: the call goes on, and the failure is counted, logged once, and named in
`call.outcome.failures`.

A hook that is an `async def` here may wait. Its implementation is an `async def`, or a plain `def`
that returns the result, or something to await for the result if it has to wait. A plain `def` is
cheaper: nothing is created to wait for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pluggy

from gateway.calls.call import Call
from gateway.calls.records import Answer, Attempt, Outcome, Principal
from gateway.headers import Headers
from gateway.storage.database import Database, Migrations
from gateway.telemetry.metrics import Sample
from gateway.telemetry.trace_context import TraceContext
from gateway.trace import Trace
from gateway.wire.dialect import Delta
from gateway.wire.sse import Event
from gateway.wire.translation.translation import Translation

if TYPE_CHECKING:
    import argparse

    from starlette.routing import BaseRoute

    from gateway.fleet.worker import Worker
    from gateway.plugins.host import Host
    from gateway.plugins.panel import Panel
    from gateway.plugins.work_queue import WorkQueue

NAME = "gateway"
hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)


class Observer(Protocol):
    """The object that `observe` may return: any object with any of these methods.

    The core calls only the methods that exist. All are plain functions, called in the worker's read
    callback, so they should append and return. `event` and `delta` are called once for each SSE
    event of a stream; `delta` is called once for a plain response, with the whole response. They
    see the data that the engine sent, injected fields included.
    """

    def started(self, status: int, headers: Headers) -> None:
        """Called when the worker's status line and headers have arrived."""

    def data(self, chunk: bytes) -> None:
        """Called with each chunk of the body, as it arrived."""

    def event(self, event: Event) -> None:
        """Called with each SSE event, unparsed; `event.data` is None for comments."""

    def delta(self, delta: Delta) -> None:
        """Called with each SSE event or plain response, parsed, of chat and completions only."""

    def finished(self, outcome: Outcome) -> None:
        """Called once at the end of the call, good or bad, before the caller gets the last byte."""


@hookspec
async def authenticate(call: Call) -> Principal | None:
    """Identify the caller.

    Called first for each call, plugin by plugin until one returns a Principal. Raise Unauthorized
    to reject the call. With at least one authenticating plugin, a call that none of them knows is
    rejected with 401.
    """


@hookspec
async def admit(call: Call) -> None:
    """Decide whether this call may go on now.

    Called once per call, on every plugin. It may wait, and is cancelled if the caller leaves. Raise
    a CallError to reject the call, or Answered to answer it at once.
    """


@hookspec
async def translate(call: Call) -> Translation | None:
    """Carry the call as one of another API.

    Called once per call, on every plugin, after admission. After a Translation the call is of its
    API, for all plugins and for the worker; the caller gets what the Translation makes of the
    response. All other plugins are then asked again: one may translate what another one has
    translated. None changes nothing.
    """


@hookspec
async def prepare(call: Call) -> None:
    """Change the request to the worker, with `await call.set(...)` and `await call.inject(...)`.

    Called once per call, on every plugin, after admission.
    """


@hookspec
async def handle(call: Call) -> Answer | None:
    """Answer without a worker: from a cache, a replay, a batch.

    Called once per call, plugin by plugin until one returns an Answer; None leaves the call to the
    next plugin.
    """


@hookspec
async def filter_workers(call: Call, workers: "Sequence[Worker]") -> "Sequence[Worker]":
    """Leave out workers that are unfit or full.

    Called for each attempt, as a pipeline: each plugin gets the workers that the plugin before it
    left. Never change the given sequence. The hook may wait for room; raise a CallError to reject
    the call. If no worker is left, the call ends with 503 `no_worker`.
    """


@hookspec
async def pick_worker(call: Call, workers: "Sequence[Worker]") -> "Worker | None":
    """Choose one of the workers that are left.

    Called for each attempt, plugin by plugin until one returns a worker; the core's own choice
    (fewest calls in flight by weight) comes last.
    """


@hookspec
async def attempt_finished(call: Call, attempt: Attempt) -> None:
    """Receive the result of one attempt; `attempt.error` is None if the worker is not to blame.

    Called after each attempt, on every plugin, even if the caller left in the middle.
    """


@hookspec
def observe(call: Call) -> object | None:
    """Return an object that then receives every part of the response.

    Called once per admitted call, before the first attempt, also if a `prepare` rejected the call.
    See Observer for the methods it may have.
    """


@hookspec
async def call_finished(call: Call, outcome: Outcome) -> None:
    """Record the call.

    Called once per call, also for rejected, failed and abandoned ones, after the observers'
    `finished`. The caller gets the last byte only after all plugins have returned.
    """


@hookspec
def sample_trace(call: Call, context: TraceContext) -> bool | None:
    """Decide whether spans are recorded of this call; with it a plugin takes part in traces.

    Called at most once per call, on every plugin, before the first attempt or when something asks
    for the context before. `context.sampled` is what the caller says, False if it says nothing.
    True: the plugin records the spans of the call; False: it does not, but it takes part; None: it
    takes no part. Isolated; a failure counts as None.
    """


@hookspec
def trace_ratio() -> float:
    """Return the share of the calls whose spans are recorded, from 0 to 1.

    With it a plugin takes part in traces, for less than with `sample_trace`. Called once, at
    start-up, and at each reload. A call with a valid `traceparent` is recorded if its caller says
    so; of the others this share is, the greatest if several plugins have the hook. The hooks
    `observe`, `attempt_finished` and `call_finished` of the plugin need not run for a call that is
    not recorded.
    """


@hookspec
def routes(gateway: "Host") -> "Sequence[BaseRoute]":
    """Add Starlette routes to the gateway.

    Called once, at start-up or at the reload that adds the plugin. Each route is made by
    `gateway.control`, or wrapped by `gateway.guarded` or `gateway.carried`, and so declares its
    permitted callers; a route without such a declaration ends the start-up.
    """


@hookspec
def check_session_id(session_id: str) -> None:
    """Reject an id that calls cannot have, so that no session of this id can be created.

    Called by POST /sessions, on every plugin, with an id that a caller chose. Raise BadRequest.
    """


@hookspec
def session_put(db: Database, session_id: str, metadata: Mapping[str, Any]) -> None:
    """Take what the metadata of a session says to the plugin.

    Called by POST /sessions with metadata, on every plugin, in the transaction that stores the
    session, in the writer's thread. Raise BadRequest, and the session is not stored.
    """


@hookspec
def session_ended(session_id: str, owner: str | None) -> None:
    """Note that a session is over: it makes no further call.

    Called on every plugin, by a plugin that is told so, in the process that was told: by
    `trace_capture` if a session is deleted. `owner` is the id of the principal whose session it is;
    None: whoever's it is. Raise nothing, and do not wait.
    """


@hookspec
def lifespan(gateway: "Host") -> AbstractAsyncContextManager[None]:
    """Run something beside the gateway.

    Called once. The context managers are entered in order before the first call and left in reverse
    order after the last, each in one task of its own. A failure on entering ends the start-up, or
    the reload.
    """


@hookspec
def reconfigure(config: msgspec.Struct) -> None:
    """Take new options while the gateway runs, and keep the plugin's state.

    Called with the new Config at a reload if the plugin's options have changed. Raise ValueError to
    reject them before changing anything; the reload then has no effect at all. If the reload fails
    later, the hook is called again with the previous Config. A plugin without this hook is created
    anew.
    """


@hookspec
def migrations() -> Migrations:
    """Return the plugin's tables in the embedded database, as Migrations.

    Called once, at start-up; pending migrations run then. Table names contain the plugin's name or
    words of its own. `call.store` and `gateway.storage.write` write, `gateway.storage.read` reads.
    """


@hookspec
def redact_trace(trace: Trace) -> Trace | None:
    """Change the stored trace of a call: remove names, add tags in `trace.metadata`.

    Called once per trace, in the writer's thread, before the trace is stored; the caller's last
    byte waits for it, so be quick. Change `trace` itself and return None, or return another trace.
    If token ids or logprobs are changed, the verdict becomes INCOMPLETE, `redacted`. A failure is
    counted, and the trace is stored without request, response and tokens, so that nothing
    unredacted is kept.
    """


@hookspec
def trace_recorded(trace: Trace) -> None:
    """Receive a trace that has been committed.

    Called once per trace, in a thread of its own, so it may block. If the hook is too slow, at most
    `offered` traces (an option of `trace_capture`) wait for it; further ones are dropped for this
    hook and counted. Isolated.
    """


@hookspec
def samples() -> Iterable[Sample]:
    """Return the plugin's metrics: numbers that it keeps already, with their present values.

    Called for each scrape if `metrics` is enabled, in the event loop, so be quick. Isolated: if the
    hook fails or returns invalid samples, that scrape contains no samples of this plugin.
    """


@hookspec
def health() -> str | None:
    """Return the plugin's problem in a few words for an operator; None if there is none.

    Called for each GET /health, in the event loop, so be quick. Anybody can read the text.
    Isolated.
    """


@hookspec
def panels(gateway: "Host") -> "Sequence[Panel]":
    """Return the tables that the plugin shows to people.

    Called by plugins that make pages, through `gateway.hooks`, whenever a page is filled, in the
    event loop, so be quick: a Panel is read only for those who may see it. Isolated.
    """


@hookspec
def read_traces(db: Database, since: float, until: float) -> Iterator[Trace]:
    """Yield the traces of calls that arrived from `since` until before `until`, in Unix seconds.

    Called by commands that process recorded traces. It blocks.
    """


@hookspec
def work_queue(gateway: "Host") -> "WorkQueue | None":
    """Return the queue of calls that may wait, for other plugins.

    Called by plugins that have such calls, through `gateway.hooks`; the first queue is used. The
    queue may be asked from the end of the start-up on.
    """


@hookspec
def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add commands to `gateway`; set `run=function` as the parser's default. Called by the CLI.

    The options passed to `run` contain the configuration as `settings`.
    """
