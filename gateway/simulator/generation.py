"""Shared part of the generating endpoints: prepare a request, run it, write its response."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Protocol

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from gateway.errors import CallerGone
from gateway.simulator.breaking import Conditions, break_off, conditions_of, set_crash
from gateway.simulator.caller import CallerWatch, read_body
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.development import Control, Running
from gateway.simulator.engine.sequences import Delta, Generation, merged
from gateway.simulator.input.refusals import Refused, wrong_media_type
from gateway.simulator.monitor import CallInFlight, Monitor
from gateway.simulator.preparing import Plan, generations

_DONE = b"data: [DONE]\n\n"


class Answer(Protocol):
    """Writes one call's response; every method except `name` returns JSON without framing.

    `cached` is the number of prompt tokens from the prefix cache, None if it is not to be told.
    """

    cached: int | None

    @property
    def name(self) -> str:
        """The id in the response."""

    def opening(self) -> list[bytes]:
        """The events before any token, sent together with the first one."""

    def event(self, delta: Delta) -> bytes | None:
        """The event for `delta`, or None if the engine sends none."""

    def closing(self) -> bytes | None:
        """The event after all sequences have ended, if any."""

    def whole(self, deltas: list[Delta]) -> bytes:
        """The response that is not streamed, from one delta per choice, in their order."""


class Wire(Protocol):
    """Puts the JSON of an Answer into a dialect's own form; one for each call."""

    def frames(self, event: bytes) -> list[bytes]:
        """Return the events of the dialect for one of the answer's, each with its framing."""

    def end(self) -> bytes:
        """Return the last events of a stream."""

    def crash(self, died: Refused) -> bytes | None:
        """Return the last events of a stream that the engine could not end.

        None: it breaks off.
        """

    def whole(self, body: bytes) -> bytes:
        """Return the response that is not streamed."""


class OwnWire:
    """The form of dialects whose answers are written as they are sent."""

    def frames(self, event: bytes) -> list[bytes]:
        return [b"data: " + event + b"\n\n"]

    def end(self) -> bytes:
        return _DONE

    def crash(self, died: Refused) -> bytes:
        return crash_event(died) + _DONE

    def whole(self, body: bytes) -> bytes:
        return body


class Prepared(msgspec.Struct, frozen=True):
    """A parsed and checked request, the writer of its response, and its form."""

    plan: Plan
    answer: Answer
    wire: Wire = OwnWire()


Prepare = Callable[[bytes, str | None, SimulatorConfig], Prepared]
"""Function of a body, the caller's `X-Request-Id` and the configuration; raises Refused."""


def _as_it_is(refused: Refused) -> Refused:
    return refused


class GenerationEndpoint:
    """A pure ASGI endpoint: parses the body by `prepare`, generates tokens at the set pace.

    `refusal` puts an error into the dialect's own envelope.
    """

    def __init__(
        self,
        prepare: Prepare,
        config: SimulatorConfig,
        monitor: Monitor,
        control: Control,
        fresh: Random,
        refusal: Callable[[Refused], Refused] = _as_it_is,
    ) -> None:
        self._prepare = prepare
        self._refusal = refusal
        self._config = config
        self._monitor = monitor
        self._control = control
        self._fresh = fresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except Refused as refused:
            raise self._refusal(refused) from None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body = await read_body(receive)
        if body and not headers.get("content-type", "").startswith("application/json"):
            raise wrong_media_type()
        conditions = conditions_of(scope)
        prepared = self._prepare(body, headers.get("x-request-id"), self._config)
        set_crash(scope, prepared.wire.crash)
        sequences = generations(prepared.plan, self._config, conditions, self._fresh)
        async with CallerWatch(receive) as caller:
            with suppress(CallerGone), self._monitor.call() as call:
                await self._control.admitted(caller)
                self._use_cache(prepared)
                run = _Run(prepared, sequences, conditions, caller, call, self._control)
                write = _stream if prepared.plan.request.stream else _whole
                with self._control.running(prepared.answer.name) as run.running:
                    last = await write(run, prepared, send)
                if last is None:
                    break_off(scope)
                self._monitor.call_is_whole(call)
                await send({"type": "http.response.body", "body": last, "more_body": False})

    def _use_cache(self, prepared: Prepared) -> None:
        kept = sum(map(self._control.cache.use, prepared.plan.prompts))
        if self._config.prompt_tokens_details:
            prepared.answer.cached = kept


class _Run:
    """Steps all sequences of a call together, as the engine does in a batch."""

    def __init__(
        self,
        prepared: Prepared,
        sequences: list[Generation],
        conditions: Conditions,
        caller: CallerWatch,
        call: CallInFlight,
        control: Control,
    ) -> None:
        plan = prepared.plan
        self.interval = plan.request.stream_interval or 1
        self.running = Running(prepared.answer.name)
        self._control = control
        self._prompt_tokens = sum(map(len, plan.prompts))
        self._sequences = sequences
        self._conditions = conditions
        self._caller = caller
        self._call = call

    async def step(self) -> list[Delta]:
        """Return one more token of each unfinished sequence; empty once all have ended.

        Raises Refused if the engine dies, and CallerGone.
        """
        live = [sequence for sequence in self._sequences if not sequence.finished]
        if not live:
            return []
        begun = self._call.running
        await self._caller.wait(self._conditions.itl if begun else self._conditions.ttft)
        await self._control.may_step(self.running, self._caller)
        for sequence in live:
            sequence.use(self._control.weights, self._control.version)
            sequence.aborted = self.running.aborted
        if not begun:
            self._call.starts(self._prompt_tokens)
        deltas = [sequence.step() for sequence in live]
        self._call.adds(sum(len(delta.tokens) for delta in deltas))
        return deltas


class _Chunks:
    """Merges `interval` steps of a sequence into one; its first and last are not delayed."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._held: dict[int, list[Delta]] = {}

    def add(self, delta: Delta) -> Delta | None:
        first = delta.index not in self._held
        waiting = [*self._held.get(delta.index, ()), delta]
        due = first or len(waiting) >= self._interval or delta.finish_reason is not None
        self._held[delta.index] = [] if due else waiting
        return merged(waiting) if due else None


async def _whole(run: _Run, prepared: Prepared, send: Send) -> bytes:
    """Generate the whole response; return its body, which is not sent yet."""
    steps: dict[int, list[Delta]] = {}
    while deltas := await run.step():
        for delta in deltas:
            steps.setdefault(delta.index, []).append(delta)
    whole = prepared.answer.whole([merged(steps[index]) for index in sorted(steps)])
    body = prepared.wire.whole(whole)
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    return body


async def _stream(run: _Run, prepared: Prepared, send: Send) -> bytes | None:
    """Send events as they are generated; return the last, which is not sent yet.

    None: the stream breaks off.
    """
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    answer, wire = prepared.answer, prepared.wire
    chunks, opening = _Chunks(run.interval), answer.opening()
    try:
        while deltas := await run.step():
            for event in (*opening, *_events(answer, chunks, deltas)):
                await _send_frames(wire.frames(event), send)
            opening = []
    except Refused as died:
        return wire.crash(died)
    last = answer.closing()
    if last is not None:
        await _send_frames(wire.frames(last), send)
    return wire.end()


def crash_event(died: Refused) -> bytes:
    """Return the event that reports a crash.

    The engine encodes only this event with Python's json module, hence with spaces.
    """
    return f"data: {json.dumps(died.envelope())}\n\n".encode()


def _events(answer: Answer, chunks: _Chunks, deltas: list[Delta]) -> Iterator[bytes]:
    for delta in deltas:
        chunk = chunks.add(delta)
        event = None if chunk is None else answer.event(chunk)
        if event is not None:
            yield event


async def _send_frames(frames: list[bytes], send: Send) -> None:
    for frame in frames:
        await send({"type": "http.response.body", "body": frame, "more_body": True})
