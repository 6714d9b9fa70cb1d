"""The course of one call, from top to bottom: `dispatch` and its steps."""

import asyncio
import logging
from contextlib import suppress
from time import monotonic
from types import CoroutineType
from typing import NoReturn

from gateway.calls.call import Call, gateway_headers
from gateway.calls.in_flight import InFlight
from gateway.calls.records import Answer, Answered, Attempt
from gateway.config import Config
from gateway.errors import (
    CallerGone,
    CallError,
    ChooseAgain,
    Draining,
    DrainTimeout,
    InternalError,
    NoWorker,
    OutOfSockets,
    TooManyCalls,
)
from gateway.fleet.registry import Workers
from gateway.fleet.worker import Worker
from gateway.pipeline.answer import send_answer
from gateway.pipeline.attempt import NOT_OF_THE_WORKER, carried_on, end, learn_injections, try_once
from gateway.pipeline.authorization import allowed_workers, check_model, check_scopes
from gateway.pipeline.choice.able import able_at_once, able_workers, find_model
from gateway.pipeline.choice.keeping import learners
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.failover import (
    NEVER_RECEIVED,
    Budget,
    Failure,
    in_time,
    may_repeat,
    may_wait,
    others,
    pause,
)
from gateway.pipeline.refused import InjectionRefused, WorkerRefused
from gateway.pipeline.upgrade import check_upgrade
from gateway.plugins.chains import Chains
from gateway.storage import Storage
from gateway.telemetry.metrics import Histogram
from gateway.telemetry.server_timing import BOUNDS
from gateway.wire.injection import NO_INJECTIONS

log = logging.getLogger("gateway")

MAX_BUFFERED_BODY = 1 << 20
"""Maximum size in bytes of a body that is read whole, so that it can be sent again on another
connection; a larger body is streamed, unless a plugin reads it."""

MAX_QUICK_CHOICES = 10
"""Number of fruitless choices of a worker in a row that are repeated at once; after that a hook
that keeps raising ChooseAgain without waiting is called less often."""

CHOICE_PAUSE = 0.01
"""Seconds between choices after that; a longer choice must have waited, and resets the count."""

ROOM_PAUSE = 0.05
"""Seconds until the descriptors of closed connections are free."""

SHUTDOWN_TIMEOUT = 5.0
"""Seconds for sending the error to callers that are cut off at shutdown."""


class Proxy:
    """Carries calls from their callers through the chains to the workers, and the responses back.

    `in_flight` holds the calls that have begun and not ended, `calls` counts all calls so far,
    `overhead` has the gateway's own seconds of each. While `draining`, new calls are rejected;
    `drains` is set when that begins. A call keeps the `chains` that it began with.
    """

    def __init__(
        self, chains: Chains, workers: Workers, settings: Config, storage: Storage
    ) -> None:
        self.in_flight: InFlight[Exchange] = InFlight()
        self.drains = asyncio.Event()
        self.calls = 0
        self.overhead = Histogram(BOUNDS)
        self.chains = chains
        self._workers = workers
        self._settings = settings
        self._storage = storage
        self._budget = Budget()

    def adopt(self, chains: Chains, settings: Config) -> None:
        """Replace the settings, and the chains of calls that begin from now on."""
        self.chains = chains
        self._settings = settings

    @property
    def draining(self) -> bool:
        return self.drains.is_set()

    async def dispatch(self, call: Call) -> None:
        """Carry `call` through the chain; return when its caller has the response or has gone.

        Any failure of callers, plugins and workers ends in a response and in `call.outcome`. Raises
        nothing except when the task is cancelled.
        """
        exchange = Exchange(call, self.chains)
        self.in_flight.add(exchange)
        self.calls += 1
        last = None  # the last bytes of the response, all others sent; None if it is broken off
        try:
            try:
                with exchange.cancel_scope:
                    try:
                        answer = await self._admit(exchange)
                    except Answered as found:
                        answer = found.answer
                    if answer is None:
                        last = await self._forward(exchange)
                    else:
                        last = await send_answer(exchange, answer, self._settings)
                    if exchange.settling is not None:
                        await exchange.settle(last)
                call.outcome.complete = True
            except Exception as error:  # noqa: BLE001  every failure becomes a response
                last = self._fail(exchange, error)
            finally:
                await self._record(exchange, last)
            if last is not None:
                await exchange.reply.end(last)
        finally:
            self.in_flight.end(exchange)
            exchange.release()

    def _fail(self, exchange: Exchange, error: Exception) -> bytes | None:
        """Begin the response to a call that ended with `error`, and return its last bytes.

        None if nothing more can be sent.
        """
        if isinstance(error, CallError):
            return self._reject(exchange, error)
        if isinstance(error, CallerGone):
            exchange.call.outcome.caller_gone = True
            exchange.reply.caller.cut()
            return None
        log.error("the gateway failed on a call", exc_info=error, extra=exchange.call.log_extra())
        return self._reject(exchange, InternalError("the gateway failed on this call"))

    def _reject(self, exchange: Exchange, error: CallError) -> bytes | None:
        """Send the head of an error response and return its body.

        In the middle of a response, break the response off and return None.
        """
        exchange.call.outcome.error = error
        if exchange.reply.begun or exchange.reply.waiting:
            exchange.reply.break_off(error, tell=self._settings.stream_errors == "event")
            return None
        body = exchange.refusal(error)
        exchange.reply.start(
            error.status,
            [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *gateway_headers(exchange.call),
                *error.headers,
            ],
        )
        return body

    async def _admit(self, exchange: Exchange) -> Answer | None:
        """Check, admit and prepare the call; return an Answer that a hook gives for a worker."""
        call, chains, settings = exchange.call, exchange.chains, self._settings
        if self.drains.is_set() or len(self.in_flight) > settings.server_limits.max_calls:
            self._refuse_for_room()
        if call.body.announces_too_much:
            call.body.check_length()
        if settings.timeouts.total is not None:
            exchange.cancel_scope.limit(settings.timeouts.total)
        if chains.authenticate and not call.internal:
            if (rest := chains.identify(call)) is not None:
                await rest
            check_scopes(call)
        exchange.tell_times(settings.server_timing, self.overhead)
        if call.method == "GET":
            check_upgrade(call.headers)
        if call.body.data is None:
            await call.body.read_if_short(MAX_BUFFERED_BODY)
            if call.body.data is None and self._workers.mixed:
                await find_model(call)
        if settings.model is not None:
            await exchange.pin(settings.model)
        if call.principal is not None and call.principal.models is not None:
            await check_model(call)
        if chains.admit and (rest := chains.run_admit(call)) is not None:
            await exchange.queued(rest)
        limit = settings.server_limits.max_body_bytes
        if chains.translate and (rest := exchange.translate(limit)) is not None:
            await rest
        try:
            if chains.prepare and (rest := chains.run_prepare(call)) is not None:
                await rest
        except CallError:  # whoever records calls records one that could not be prepared, too
            exchange.observe(chains.observers(call))
            raise
        own = () if call.dialect is not None else learners(call, self._workers)
        if own or chains.observe or call.counts_tokens:
            exchange.observe(chains.observers(call, *own))
        answer = chains.first_answer(call) if chains.handle else None
        return await answer if type(answer) is CoroutineType else answer

    async def _forward(self, exchange: Exchange) -> bytes:
        """Try workers until one has responded or the call may not be retried."""
        tried = exchange.call.tried
        failure: Failure | None = None
        while (worker := await self._choose(exchange, tried)) is not None:
            tried.append(worker)
            try:
                return await self._attempt(exchange, worker)
            except (CallError, WorkerRefused) as error:
                failure = error
            finally:
                worker.end()
            if not await self._goes_on(exchange, failure, worker):
                break
        return await self._give_up(exchange, failure)

    async def _goes_on(self, exchange: Exchange, failure: Failure, worker: Worker) -> bool:
        """Whether to choose a worker again after this failure of `worker`; waits first if so.

        A call that nobody has received counts as not sent, and so does one that is held or awaits
        an engine: it may wait in `filter_workers` until the worker is back, or another one.
        """
        call, workers = exchange.call, self._workers
        if call.attempts[-1].refused or may_wait(exchange, failure, workers):
            call.attempts[-1].refused = True
            call.tried.remove(worker)
            fit = workers.serving(call.model if workers.mixed else None).fit
            here = {worker}.issuperset(allowed_workers(call, fit))
            return here or self._settings.failover.max_workers > 1
        return await self._fails_over(exchange, failure, call.tried)

    async def _fails_over(self, exchange: Exchange, failure: Failure, tried: list[Worker]) -> bool:
        """Whether to try another worker after this failure; waits first if so."""
        call, settings, asked = exchange.call, self._settings.failover, len(tried)
        if not await others(self._workers, call, failure, tried) or asked >= settings.max_workers:
            return False
        wait = pause(failure, asked, settings)
        if not (may_repeat(exchange, failure, asked, settings) and in_time(call, wait, settings)):
            return False
        # An attempt that reached no worker caused no load, so the budget is not charged.
        if not (
            isinstance(failure, NEVER_RECEIVED) or self._budget.take(settings.budget, self.calls)
        ):
            return False
        await exchange.queued(asyncio.sleep(wait))
        return True

    async def _give_up(self, exchange: Exchange, failure: Failure | None) -> bytes:
        """Have a broken stream carried on; else pass on the latest response, or raise its error."""
        if (part := exchange.part) is not None:
            last = await carried_on(exchange, part, failure, self._choose, self._settings)
            if last is not None:
                return last
        if not isinstance(failure, WorkerRefused):
            raise self._final(failure, exchange.call)
        answer = Answer(failure.status, failure.headers, failure.body)
        attempt = exchange.call.attempts[-1]
        attempt.last = True
        return await send_answer(exchange, answer, self._settings, attempt)

    def _final(self, failure: CallError | None, call: Call) -> CallError:
        """Return the error of a call; it says when to come back if no worker has received it."""
        seconds = self._workers.seconds_until_fit(call.model)
        if failure is None:
            return NoWorker("no worker can take this call now", retry_after=seconds)
        if isinstance(failure, NEVER_RECEIVED):
            failure.headers += ((b"retry-after", b"%d" % seconds),)
        return failure

    async def _attempt(self, exchange: Exchange, worker: Worker) -> bytes:
        """Return the last bytes of the response; if injections are rejected, retry without them."""
        left_out = NO_INJECTIONS
        while True:
            attempt = Attempt(
                worker, monotonic(), left_out=left_out, weight_version=worker.weight_version
            )
            exchange.call.attempts.append(attempt)
            try:
                try:
                    answer = await try_once(exchange, attempt, self._settings)
                except OutOfSockets:
                    answer = await self._try_with_room(exchange, attempt)
            except InjectionRefused as refused:
                left_out |= refused.injections
                continue
            except CallError as error:
                if not isinstance(error, NOT_OF_THE_WORKER):
                    attempt.error = error
                raise
            finally:
                end(attempt)
                chains = exchange.chains
                if chains.attempt_finished and (
                    rest := chains.run_attempt_finished(exchange.call, attempt)
                ):
                    await exchange.cancel_scope.shielded(rest)
            if exchange.stripper is not None or left_out:
                learn_injections(exchange, attempt)
            return answer

    async def _try_with_room(self, exchange: Exchange, attempt: Attempt) -> bytes:
        self._workers.close_idle()  # idle connections to other workers may hold what is missing
        await asyncio.sleep(ROOM_PAUSE)
        return await try_once(exchange, attempt, self._settings)

    async def _choose(self, exchange: Exchange, tried: list[Worker]) -> Worker | None:
        """Choose a worker and take one of its slots; None if no worker is left to try."""
        fruitless, began, again = 0, exchange.call.started, False
        while True:
            try:
                picked = await self._pick(exchange, tried)
                # False if its last slot went to another call while the hooks waited.
                if picked is None or picked.begin():
                    return picked
            except ChooseAgain:
                pass
            now = monotonic()
            fruitless = 0 if now - began > CHOICE_PAUSE else fruitless + 1
            if again:  # the first time a hook has nearly always waited, so that others have run
                seconds = 0 if fruitless < MAX_QUICK_CHOICES else CHOICE_PAUSE
                await exchange.queued(asyncio.sleep(seconds))
                now = monotonic()
            again, began = True, now

    async def _pick(self, exchange: Exchange, tried: list[Worker]) -> Worker | None:
        """Choose a worker without taking a slot; None if no worker is left to try.

        Raises the errors of `able_workers`.
        """
        call, chains = exchange.call, exchange.chains
        workers = able_at_once(call, self._workers) or await able_workers(call, self._workers)
        if tried:
            workers = [worker for worker in workers if worker not in tried]
        if chains.filter_workers:
            left = chains.filtered_workers(call, workers)
            workers = await exchange.queued(left) if type(left) is CoroutineType else left
        if not workers:
            return None
        if chains.pick_worker:
            found = chains.picked_worker(call, workers)
            picked = await exchange.queued(found) if type(found) is CoroutineType else found
            if picked is not None:
                return picked
        return workers[0] if len(workers) == 1 else self._workers.least_loaded(workers)

    async def _record(self, exchange: Exchange, last: bytes | None) -> None:
        """Report the outcome to observers and hooks, and store entries, before the last bytes."""
        call = exchange.call
        call.outcome.duration = duration = monotonic() - call.started
        if last is not None:
            exchange.reply.count_last(last, duration)
        exchange.note_failure()
        if exchange.cancel_scope.caller_left:
            call.outcome.caller_gone = True
        observers = exchange.observers
        if observers.finished or observers.counter is not None:
            observers.notify_finished(call.body)
        call.outcome.repeated = call.runs_again is not None and call.runs_again(call)
        chains = exchange.chains
        if chains.call_finished and (rest := chains.run_call_finished(call)) is not None:
            await rest
        if exchange.entries and (due := self._storage.begin_commit(exchange.entries)) is not None:
            await due

    def _refuse_for_room(self) -> NoReturn:
        if self.draining:
            raise Draining("the gateway is shutting down")
        most = self._settings.server_limits.max_calls
        raise TooManyCalls(f"{most} calls are in flight already (server_limits.max_calls)")

    async def drain(self, seconds: float | None) -> None:
        """Reject new calls, wait up to `seconds` for those in flight, then end the others."""
        self.drains.set()
        if await self._wait_until_empty(seconds):
            return
        log.warning("%d calls did not finish in time and are ended", len(self.in_flight))
        for exchange in self.in_flight:
            begun = exchange.chains.handle or any(not a.refused for a in exchange.call.attempts)
            error = DrainTimeout if begun else Draining
            exchange.cancel_scope.cancel(error("the gateway is shutting down"))
        await self._wait_until_empty(SHUTDOWN_TIMEOUT)

    async def _wait_until_empty(self, seconds: float | None) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.in_flight:
                    await self.in_flight.wait_for(self.in_flight)
        return not self.in_flight
