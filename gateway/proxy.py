"""The story of one call, from top to bottom: `dispatch` and what it is made of."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from gateway.attempt import try_once
from gateway.call import Attempt, Call
from gateway.chains import Chains
from gateway.config import Config
from gateway.errors import (
    CallerGone,
    CallError,
    ConnectFailed,
    ConnectTimeout,
    Draining,
    InternalError,
    NoWorker,
    TooManyCalls,
)
from gateway.handled import pass_on
from gateway.refusing import NONE, InjectionRefused
from gateway.storage import Storage
from gateway.workers import Worker, Workers

log = logging.getLogger("gateway")

GATHERED = 1 << 20
"""Bodies of up to so many bytes are read whole, so that they can be sent again on another
connection; longer ones go on as they come, unless a plugin asks for them."""

LAST_WORDS = 5.0
"""Seconds in which callers that are cut off at shutdown are told so."""

UNSEEN = (ConnectFailed, ConnectTimeout)
"""After these the worker has seen nothing of the call, so another may be asked."""


class Proxy:
    """Carries calls from their callers through the chains to the workers, and the answers back.

    `in_flight` holds the calls that have begun and not ended; while `draining`, new ones are
    refused.
    """

    def __init__(
        self, chains: Chains, workers: Workers, settings: Config, storage: Storage
    ) -> None:
        self.in_flight: set[Call] = set()
        self.draining = False
        self._chains = chains
        self._workers = workers
        self._settings = settings
        self._storage = storage
        self._emptied: asyncio.Event | None = None

    async def dispatch(self, call: Call) -> None:
        """Carry `call` through the chain; when this returns, its caller has the answer or has gone.

        Whatever callers, plugins and workers do ends in an answer and in `call.outcome`. Nothing is
        raised but the cancellation of the task.
        """
        self.in_flight.add(call)
        try:
            last = None
            try:
                last = await self._answered(call)
            finally:
                await self._record(call, last)
            if last is not None:
                await call.reply.end(last)
        finally:
            self.in_flight.discard(call)
            if self._emptied is not None and not self.in_flight:
                self._emptied.set()

    async def _answered(self, call: Call) -> bytes | None:
        """The last bytes of the answer, all before them sent; None: it was broken off."""
        try:
            with call.lifeline:
                last = await self._answer(call)
            call.outcome.complete = True
            return last
        except CallError as error:
            return _refuse(call, error)
        except CallerGone:
            call.outcome.caller_gone = True
            call.caller.cut()
            return None
        except Exception:
            log.exception("call %s: the gateway failed", call.id)
            return _refuse(call, InternalError("the gateway failed on this call"))

    async def _answer(self, call: Call) -> bytes:
        self._check_room()
        call.body.check_length()
        if self._settings.timeouts.total is not None:
            call.lifeline.limit(self._settings.timeouts.total)
        if self._chains.authenticate:
            await self._chains.identify(call)
        if call.body.data is None:
            await call.body.gather(GATHERED)
        if self._settings.model is not None:
            await _pin(call, self._settings.model)
        await self._chains.decide(call)
        call.observers = self._chains.observers(call)
        answer = await self._chains.first_answer(call) if self._chains.handle else None
        if answer is not None:
            return await pass_on(call, answer, self._settings)
        return await self._forward(call)

    async def _forward(self, call: Call) -> bytes:
        """Try workers until one has answered, or the call may not be tried again."""
        tried: list[Worker] = []
        failed: CallError | None = None
        while True:
            worker = await self._choose(call, tried, failed)
            try:
                return await self._ask(call, worker)
            except UNSEEN as error:
                failed = error
                tried.append(worker)

    async def _ask(self, call: Call, worker: Worker) -> bytes:
        """The worker's answer; where it refuses what is injected, that to the call without it."""
        left_out = NONE
        while True:
            attempt = Attempt(worker, monotonic(), left_out=left_out)
            try:
                last = await self._attempt(call, attempt)
            except InjectionRefused as refused:
                left_out |= refused.injections
                continue
            if call.stripper is not None or left_out:
                _learn(call, attempt)
            return last

    async def _attempt(self, call: Call, attempt: Attempt) -> bytes:
        call.attempts.append(attempt)
        attempt.worker.begin()
        try:
            return await try_once(call, attempt, self._settings)
        except CallError as error:
            attempt.error = error
            raise
        finally:
            attempt.worker.end()
            attempt.ended = monotonic()
            if self._chains.attempt_finished:
                with call.lifeline.held():
                    await self._chains.tell_attempt(call, attempt)

    async def _choose(self, call: Call, tried: list[Worker], failed: CallError | None) -> Worker:
        """Raises the failure of the last attempt where no worker is left to try, else NoWorker."""
        workers: Sequence[Worker] = self._workers.all
        if tried:
            workers = [worker for worker in workers if worker not in tried]
        if self._chains.filter_workers:
            workers = await self._chains.fit_workers(call, workers)
        if not workers:
            raise failed or NoWorker("no worker can take this call now")
        picked = None
        if self._chains.pick_worker:
            picked = await self._chains.picked_worker(call, workers)
        return picked or self._workers.least_loaded(workers)

    async def _record(self, call: Call, last: bytes | None) -> None:
        """Tell all who watch how the call went, while its last bytes wait."""
        call.reply.count(last or b"")
        call.outcome.duration = monotonic() - call.started
        if call.observers.finished:
            call.observers.tell_finished()
        if self._chains.call_finished:
            await self._chains.tell_call(call)
        if call.entries:
            await self._storage.commit(call.entries)

    def _check_room(self) -> None:
        if self.draining:
            raise Draining("the gateway is shutting down")
        most = self._settings.limits.max_calls
        if len(self.in_flight) > most:
            raise TooManyCalls(f"{most} calls are in flight already (limits.max_calls)")

    async def drain(self, seconds: float | None) -> None:
        """Refuse new calls, wait up to `seconds` for those in flight, then end what is left."""
        self.draining = True
        if await self._wait_until_empty(seconds):
            return
        log.warning("%d calls did not finish in time and are ended", len(self.in_flight))
        for call in self.in_flight:
            call.lifeline.cut(Draining("the gateway is shutting down"))
        await self._wait_until_empty(LAST_WORDS)

    async def _wait_until_empty(self, seconds: float | None) -> bool:
        self._emptied = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.in_flight:
                    await self._emptied.wait()
        return not self.in_flight


async def _pin(call: Call, model: str) -> None:
    """Ask for `model` in place of the caller's, where the body is a JSON object."""
    if call.method == "POST" and (await call.body.read())[:64].lstrip().startswith(b"{"):
        await call.set("model", model)


def _learn(call: Call, attempt: Attempt) -> None:
    """What the worker takes of what is injected, and what it does not."""
    if call.dialect is not None and attempt.status is not None and attempt.status < 400:
        taken = call.stripper.injected if call.stripper is not None else NONE
        attempt.worker.refusals.learn(call.dialect.name, taken, attempt.left_out)


def _refuse(call: Call, error: CallError) -> bytes | None:
    """The body of the error, its head sent; in the middle of an answer, None: it is broken off."""
    call.outcome.error = error
    if call.reply.begun:
        call.reply.break_off(error)
        return None
    body = error.body()
    call.reply.start(
        error.status,
        [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", call.id.encode()),
            *error.headers,
        ],
    )
    return body
