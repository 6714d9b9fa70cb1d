"""Writes one JSON line per call, without its prompt, its response or any key."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from gateway import Call, Host, Outcome, Result, hookimpl

log = logging.getLogger("gateway.access_log")

BACKLOG = 10_000
"""Lines that may wait for a slow disk; further lines are dropped, and counted."""


class Line(msgspec.Struct, omit_defaults=True):
    """One line of the log. Times are seconds, `time` is Unix time; unknown values are left out.

    `result` is how the call went, see Outcome.result; left out if it is a success.
    `tokens_counted`: the engine did not report the tokens, so they were counted in the stream.
    `frontend` is how the call came; left out if it is HTTP. `trace_id` and `span_id` are those of
    the distributed trace that the call is part of.
    """

    time: float
    call_id: str
    method: str
    path: str
    status: int
    duration: float
    bytes: int
    ttft: float | None = None
    session_id: str | None = None
    principal: str | None = None
    worker: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_counted: bool = False
    error: str | None = None
    attempts: int = 1
    caller_gone: bool = False
    result: Result = "success"
    frontend: str = "http"
    trace_id: str | None = None
    span_id: str | None = None


class AccessLog:
    """Writes from a thread, in batches; opens the file for each, so the file may be rotated."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """`path` of the file, or null for standard error.

        `tokens`: look for usage in every response. Without it the tokens are known only if another
        plugin looks for them.
        """

        path: str | None = None
        tokens: bool = True

    def __init__(self, config: Config) -> None:
        self._path = None if config.path is None else Path(config.path)
        self._tokens = config.tokens
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(BACKLOG)
        self._dropped = 0

    @hookimpl
    def observe(self, call: Call) -> object | None:
        if self._tokens:
            call.count_tokens()
        return None

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        try:
            self._lines.put_nowait(msgspec.json.encode(line_of(call, outcome)) + b"\n")
        except asyncio.QueueFull:
            self._dropped += 1

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        if self._path is not None:
            self._path.open("ab").close()  # fail at start-up if it is not writable
        writing = asyncio.create_task(self._write_all())
        try:
            yield
        finally:
            await self._lines.join()
            writing.cancel()

    async def _write_all(self) -> None:
        while True:
            lines = [await self._lines.get()]
            lines += [self._lines.get_nowait() for _ in range(self._lines.qsize())]
            try:
                await asyncio.to_thread(self._write, b"".join(lines))
            except OSError as error:
                log.warning("%s: %d lines are lost: %s", self._path, len(lines), error)
            for _ in lines:
                self._lines.task_done()

    def _write(self, batch: bytes) -> None:
        if self._dropped:
            log.warning("%d lines were dropped: the log is written too slowly", self._dropped)
            self._dropped = 0
        if self._path is None:
            sys.stderr.buffer.write(batch)
            sys.stderr.buffer.flush()
        else:
            with self._path.open("ab") as file:
                file.write(batch)


def line_of(call: Call, outcome: Outcome) -> Line:
    usage, context = outcome.usage, call.distributed_trace
    return Line(
        time=round(call.created, 3),
        call_id=call.id,
        method=call.method,
        path=call.asked_path,
        status=outcome.status,
        duration=round(outcome.duration, 6),
        bytes=outcome.bytes_sent,
        ttft=None if outcome.ttft is None else round(outcome.ttft, 6),
        session_id=call.session_id,
        principal=call.principal.id if call.principal else None,
        worker=call.worker.id if call.worker else None,
        model=call.model,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        tokens_counted=usage.counted if usage else False,
        error=outcome.error_code,
        attempts=len(call.attempts),
        caller_gone=outcome.caller_gone,
        result=outcome.result,
        frontend=call.frontend,
        trace_id=context.trace_id if context else None,
        span_id=context.span_id if context else None,
    )
