"""A plugin that breaks where a call tells it to, with all that it knows in its exception."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NoReturn

from starlette.routing import BaseRoute

from gateway import (
    Answer,
    Attempt,
    Call,
    ControlRequest,
    Database,
    Delta,
    Event,
    Gateway,
    Headers,
    Outcome,
    Principal,
    Sample,
    Trace,
    Worker,
    hookimpl,
)

HOOKS = (
    "authenticate",
    "admit",
    "prepare",
    "handle",
    "answer",
    "filter_workers",
    "pick_worker",
    "attempt_finished",
    "observe",
    "started",
    "data",
    "event",
    "delta",
    "finished",
    "call_finished",
    "rows",
    "write",
    "written",
)
"""Values of a call's `x-break`; `answer` breaks in the middle of an answer of its own."""


def broken(*known: object) -> NoReturn:
    """As libraries do it: the exception quotes, and so does the one that it comes from."""
    try:
        raise KeyError(repr(known))
    except KeyError as error:
        raise ValueError(f"cannot make sense of {known!r}") from error


class Clumsy:
    """What nobody's call asks for breaks too, once a call's words were seen."""

    def __init__(self) -> None:
        self._seen: object = None
        self._key: object = None

    async def _reach(self, call: Call, where: str) -> None:
        self._seen = (call.headers, call.body.data)
        if call.header("x-break") == where:
            broken(call.headers, await call.body.read())

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        await self._reach(call, "authenticate")
        return None

    @hookimpl
    async def admit(self, call: Call) -> None:
        await self._reach(call, "admit")

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await self._reach(call, "prepare")

    @hookimpl
    async def handle(self, call: Call) -> Answer | None:
        await self._reach(call, "handle")
        return Answer(body=_half_of(call)) if call.header("x-break") == "answer" else None

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        await self._reach(call, "filter_workers")
        return workers

    @hookimpl
    async def pick_worker(self, call: Call) -> Worker | None:
        await self._reach(call, "pick_worker")
        return None

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        await self._reach(call, "attempt_finished")
        self._key = attempt.worker.settings.headers

    @hookimpl
    def observe(self, call: Call) -> object:
        if call.header("x-break") == "observe":
            broken(call.headers, call.body.data)
        return Quoting(call)

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        await self._reach(call, "call_finished")

    @hookimpl
    def routes(self, gateway: Gateway) -> Sequence[BaseRoute]:
        return [gateway.control("/clumsy", scope=None, POST=self.answer)]

    async def answer(self, request: ControlRequest) -> object:
        broken(await request.json(dict[str, object]), self._seen, self._key)

    @hookimpl
    def health(self) -> str | None:
        broken(self._seen, self._key)

    @hookimpl
    def samples(self) -> Iterable[Sample]:
        broken(self._seen, self._key)

    @hookimpl
    def redact_trace(self, trace: Trace) -> Trace | None:
        broken(trace)

    @hookimpl
    def trace_recorded(self, trace: Trace) -> None:
        broken(trace)


async def _half_of(call: Call) -> AsyncIterator[bytes]:
    yield b"half of it"
    broken(call.headers, call.body.data)


class Quoting:
    """An observer."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def _reach(self, where: str, known: object) -> None:
        if self._call.header("x-break") == where:
            broken(self._call.headers, self._call.body.data, known)

    def started(self, status: int, headers: Headers) -> None:
        self._reach("started", headers)

    def data(self, chunk: bytes) -> None:
        self._reach("data", chunk)

    def event(self, event: Event) -> None:
        self._reach("event", event)

    def delta(self, delta: Delta) -> None:
        self._reach("delta", delta)

    def finished(self, outcome: Outcome) -> None:
        self._reach("finished", outcome)
        self._call.store(Unstorable(), self._call, 100)


class Unstorable:
    """A sink."""

    def prepare(self, db: Database, item: Call) -> Call:
        return self._reach("rows", item)

    def write(self, db: Database, rows: Sequence[Call]) -> None:
        for call in rows:
            self._reach("write", call)

    def written(self, rows: Sequence[Call]) -> None:
        for call in rows:
            self._reach("written", call)

    def lost(self, item: Call, error: Exception) -> None:
        broken(item.headers, item.body.data, error)

    def _reach(self, where: str, call: Call) -> Call:
        if call.header("x-break") == where:
            broken(call.headers, call.body.data)
        return call
