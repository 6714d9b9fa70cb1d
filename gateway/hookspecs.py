"""Every hook: when it is called, what it may do, and what a failure of it does.

A plugin implements any of these with `@hookimpl`, taking the arguments it needs by their names.
Each hook's implementations run in the order of the configuration file.

Hooks that decide (`authenticate` to `pick_worker`) fail closed: a CallError they raise is the
answer to the caller, any other exception is a 500 `hook_failed`, and no worker sees the call. Hooks
that watch (`observe`, `attempt_finished`, `call_finished`, and every method of an observer) are
isolated: the call goes on, the failure is counted, logged once, and named in
`call.outcome.failures`.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import msgspec
import pluggy

from gateway.call import Answer, Attempt, Call, Outcome, Principal
from gateway.headers import Headers
from gateway.samples import Sample
from gateway.trace import Trace
from gateway.wire.dialects import Delta
from gateway.wire.sse import Event

if TYPE_CHECKING:
    import argparse

    from sqlite_utils.migrations import Migrations
    from starlette.routing import BaseRoute

    from gateway.app import Gateway
    from gateway.worker import Worker

NAME = "gateway"
hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)


class Observer(Protocol):
    """What `observe` may return: any object with any of these methods, and only those are called.

    All are plain functions, called in the worker's read callback, so they append and return. For a
    stream `delta` and `event` come once for each SSE event; for a plain answer `delta` comes once,
    with the whole of it. They see what the engine sent, injected fields included.
    """

    def started(self, status: int, headers: Headers) -> None:
        """The worker's status line and headers are in."""

    def data(self, chunk: bytes) -> None:
        """Some bytes of the body, as they came."""

    def event(self, event: Event) -> None:
        """One SSE event, unparsed; `event.data` is None for comments."""

    def delta(self, delta: Delta) -> None:
        """One SSE event or plain answer of a known dialect (chat, completions), read."""

    def finished(self, outcome: Outcome) -> None:
        """The call is over, well or not; called once, before the caller has the last byte."""


@hookspec
async def authenticate(call: Call) -> Principal | None:
    """Say who calls.

    Called first for each call, plugin by plugin until one answers. Raise Unauthorized to refuse.
    With at least one authenticating plugin, a call that none of them knows is refused with 401.
    """


@hookspec
async def admit(call: Call) -> None:
    """Decide whether this call may go on now.

    Called once a call, all plugins. It may wait, and is cancelled when the caller leaves; raise a
    CallError to refuse.
    """


@hookspec
async def prepare(call: Call) -> None:
    """Change what is sent to the worker, with `await call.set(...)` and `await call.inject(...)`.

    Called once a call, all plugins, after admission.
    """


@hookspec
async def handle(call: Call) -> Answer | None:
    """Answer without a worker: from a cache, a replay, a batch.

    Called once a call, plugin by plugin until one answers; None leaves it to the next.
    """


@hookspec
async def filter_workers(call: Call, workers: "Sequence[Worker]") -> "Sequence[Worker]":
    """Leave out workers that are unfit or full.

    Called for each attempt, as a pipeline: each plugin gets what the one before it left. Never
    change the sequence given. It may wait for room; raise a CallError to refuse. When nothing is
    left the call ends with 503 `no_worker`.
    """


@hookspec
async def pick_worker(call: Call, workers: "Sequence[Worker]") -> "Worker | None":
    """Choose one of the workers that are left.

    Called for each attempt, plugin by plugin until one answers; the core's own choice (least in
    flight by weight) comes last.
    """


@hookspec
async def attempt_finished(call: Call, attempt: Attempt) -> None:
    """Learn how one try at a worker went; `attempt.error` is None where it is not to blame.

    Called after each attempt, all plugins, also when the caller left in the middle.
    """


@hookspec
def observe(call: Call) -> object | None:
    """Give an object that then sees every part of the answer.

    Called once a call, before the first attempt. See Observer for the methods it may have.
    """


@hookspec
async def call_finished(call: Call, outcome: Outcome) -> None:
    """Record the call.

    Called once for every call, also refused, failed and abandoned ones, after the observers'
    `finished`. The caller gets the last byte only when all plugins have returned.
    """


@hookspec
def routes(gateway: "Gateway") -> "Sequence[BaseRoute]":
    """Add routes of Starlette's to the gateway.

    Called once, at start-up or at the reload that brings the plugin. Each is made by
    `gateway.control`, or wrapped by `gateway.guarded` or `gateway.carried`, and so declares who may
    use it; one that does not ends the start-up.
    """


@hookspec
def lifespan(gateway: "Gateway") -> AbstractAsyncContextManager[None]:
    """Run something beside the gateway.

    Called once; entered in order before the first call, left in reverse after the last, in one task
    of its own. A failure on entering ends the start-up, or the reload.
    """


@hookspec
def reconfigure(config: msgspec.Struct) -> None:
    """Take other options while the gateway runs, and keep what is known.

    Called at a reload where the plugin's options are not what they were, with its new Config. Raise
    ValueError to refuse, before anything is changed; nothing else of the reload happens then. Where
    the reload fails after it, it is called with the Config before. A plugin without this hook is
    made anew.
    """


@hookspec
def migrations() -> "Migrations":
    """Give the tables that the plugin keeps in the embedded database, as sqlite-utils Migrations.

    Called once, at start-up; pending migrations run then. Tables carry the plugin's name or words
    of its own. `call.store` and `gateway.storage.write` write, `gateway.storage.read` reads.
    """


@hookspec
def redact_trace(trace: Trace) -> Trace | None:
    """Change what is stored of a call: take out names, tag it in `trace.metadata`.

    Called once for each trace, in the writer's thread, before it is stored; the caller's last byte
    waits for it, so be quick. Change `trace` itself and return nothing, or return another. When
    token ids or logprobs are changed, the verdict becomes INCOMPLETE, `redacted`. A failure is
    counted, and the trace is stored without request, answer and tokens: nothing is kept in clear.
    """


@hookspec
def trace_recorded(trace: Trace) -> None:
    """Learn of a trace that has been committed.

    Called once for each trace, in a thread of its own, so it may block. Behind a hook that is too
    slow at most `trace_capture`'s `offered` traces wait; further ones are dropped for it and
    counted. Isolated.
    """


@hookspec
def samples() -> Iterable[Sample]:
    """Tell what is to be counted of the plugin: numbers it has anyhow, as they are now.

    Called for each scrape, where `metrics` is enabled, in the event loop, so be quick. Isolated: of
    a plugin that breaks here, or gives what cannot be told, that scrape has nothing.
    """


@hookspec
def health() -> str | None:
    """Say what is not well, in a few words for an operator; None: nothing.

    Called for each GET /health, in the event loop, so be quick. Anybody can read it. Isolated.
    """


@hookspec
def read_traces(db: sqlite3.Connection, since: float, until: float) -> Iterator[Trace]:
    """Give back the traces of calls that came from `since` until before `until`, in Unix seconds.

    Called by commands that go through what was recorded. It blocks.
    """


@hookspec
def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add commands to `gateway`; set `run=function` as the parser's default. Called by the CLI.

    The options that `run` is given have the configuration as `settings`.
    """
