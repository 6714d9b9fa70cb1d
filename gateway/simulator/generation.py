"""What the endpoints that generate share: a request is prepared, run, and written as it runs."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from random import Random
from typing import Protocol

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from gateway.simulator.breaking import Conditions, conditions_of
from gateway.simulator.caller import Caller, CallerGone, read_body
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.engine import Delta, Generation, merged
from gateway.simulator.monitor import CallInFlight, Monitor
from gateway.simulator.preparing import Plan, generations
from gateway.simulator.refusals import wrong_media_type

_DONE = b"data: [DONE]\n\n"


class Answer(Protocol):
    """Writes one call's answer; every method gives JSON without framing."""

    def opening(self) -> Iterable[bytes]:
        """The events before any token, sent together with the first one."""

    def event(self, delta: Delta) -> bytes | None:
        """The event for `delta`, or None where the engine sends none."""

    def closing(self) -> bytes | None:
        """The event after all sequences have ended, if any."""

    def whole(self, deltas: list[Delta]) -> bytes:
        """The answer that is not streamed, from one delta for each choice, in their order."""


class Prepared(msgspec.Struct, frozen=True):
    """A request that was read and checked, and the hand that writes its answer."""

    plan: Plan
    answer: Answer


Prepare = Callable[[bytes, str | None, SimulatorConfig], Prepared]
"""From a body and the caller's `X-Request-Id` to what is to be done; raises Refused."""


class GenerationEndpoint:
    """A pure ASGI endpoint: the body goes through `prepare`, tokens come out at their pace."""

    def __init__(
        self, prepare: Prepare, config: SimulatorConfig, monitor: Monitor, fresh: Random
    ) -> None:
        self._prepare = prepare
        self._config = config
        self._monitor = monitor
        self._fresh = fresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body = await read_body(receive)
        if body and not headers.get("content-type", "").startswith("application/json"):
            raise wrong_media_type()
        conditions = conditions_of(scope)
        prepared = self._prepare(body, headers.get("x-request-id"), self._config)
        sequences = generations(prepared.plan, self._config, conditions, self._fresh)
        with suppress(CallerGone), self._monitor.call() as call:
            async with Caller(receive) as caller:
                run = _Run(prepared.plan, sequences, conditions, caller, call)
                write = _stream if prepared.plan.request.stream else _whole
                last = await write(run, prepared.answer, send)
                self._monitor.call_is_whole(call)
                await send({"type": "http.response.body", "body": last, "more_body": False})


class _Run:
    """Steps all sequences of a call together, as a batch of the engine does."""

    def __init__(
        self,
        plan: Plan,
        sequences: list[Generation],
        conditions: Conditions,
        caller: Caller,
        call: CallInFlight,
    ) -> None:
        self._plan = plan
        self._sequences = sequences
        self._conditions = conditions
        self._caller = caller
        self._call = call

    async def deltas(self) -> AsyncIterator[Delta]:
        """Every step of every sequence; raises CallerGone."""
        await self._caller.wait(self._conditions.ttft)
        self._call.starts(sum(map(len, self._plan.prompts)))
        live = self._sequences
        while live:
            self._call.adds(len(live))
            for sequence in live:
                yield sequence.step()
            live = [sequence for sequence in live if not sequence.finished]
            if live:
                await self._caller.wait(self._conditions.itl)

    async def chunks(self) -> AsyncIterator[Delta]:
        """The steps, `stream_interval` of each sequence at a time; its first comes alone."""
        interval = self._plan.request.stream_interval or 1
        held: dict[int, list[Delta]] = {}
        async for delta in self.deltas():
            first = delta.index not in held
            waiting = held.setdefault(delta.index, [])
            waiting.append(delta)
            if first or len(waiting) >= interval or delta.finish_reason:
                yield merged(waiting)
                held[delta.index] = []


async def _whole(run: _Run, answer: Answer, send: Send) -> bytes:
    """Generates the whole answer; returns its body, which is left to be sent."""
    steps: dict[int, list[Delta]] = {}
    async for delta in run.deltas():
        steps.setdefault(delta.index, []).append(delta)
    body = answer.whole([merged(steps[index]) for index in sorted(steps)])
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    return body


async def _stream(run: _Run, answer: Answer, send: Send) -> bytes:
    """Sends event by event as they are generated; returns the last, which is left to be sent."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    opened = False
    async for delta in run.chunks():
        if not opened:
            opened = True
            for event in answer.opening():
                await _send_event(event, send)
        written = answer.event(delta)
        if written is not None:
            await _send_event(written, send)
    last = answer.closing()
    if last is not None:
        await _send_event(last, send)
    return _DONE


async def _send_event(event: bytes, send: Send) -> None:
    await send(
        {"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True}
    )
