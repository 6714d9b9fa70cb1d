"""Lets calls pass or wait, by the rules in `admission.py`: the clock, timers and other plugins."""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import NoReturn

from gateway import Call, CallError, ChooseAgain, Host, Worker
from gateway_plugins.session_admission.admission import Admission
from gateway_plugins.session_admission.line import Ticket
from gateway_plugins.session_admission.options import Options
from gateway_plugins.session_admission.places import SessionKey
from gateway_plugins.session_admission.refusing import refusal
from gateway_plugins.session_admission.report import AdmissionReport, Counts, report_of

LOOK_AGAIN = 5.0
"""Seconds after which a waiting call asks the other plugins again which workers may take it."""


class Gate:
    """The admission of one gateway, until it is closed."""

    def __init__(self, options: Options, gateway: Host) -> None:
        self._options = options
        self._gateway = gateway
        self._workers = gateway.workers
        self._rules = Admission(self._limit_of, options.ttl)
        self._counts = Counts()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def mixed(self) -> bool:
        """Whether the workers serve different models."""
        return self._workers.mixed

    def close(self) -> None:
        """Let all calls pass that wait."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake_all()

    def set_options(self, options: Options) -> None:
        """Replace the options. Sessions that are hot stay so, calls that wait keep their places."""
        self._options = options
        self._rules.places.ttl = options.ttl
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.look()

    def look(self) -> None:
        """Look for free places anew, as limits or workers have changed."""
        self._rules.look([worker.id for worker in self._workers.all], monotonic())
        self._wake_all()
        self._arm()

    def ticket(self, key: SessionKey) -> Ticket:
        """Return a ticket for a new call."""
        return self._rules.ticket(key)

    def enter(
        self, call: Call, ticket: Ticket, workers: Sequence[Worker]
    ) -> Sequence[Worker] | Awaitable[Sequence[Worker]]:
        """Return the worker at which the call's session is hot, in a sequence.

        A session that is not hot gets a place, or waits for one; then this returns what is to be
        awaited, which raises ChooseAgain after the wait, and CallError if the wait is too long.
        """
        if self._closed or not workers:
            return workers
        found = self._rules.hot_at(ticket, [worker.id for worker in workers], monotonic())
        if found is not None:
            return [worker for worker in workers if worker.id == found]
        return self._admit(call, ticket, workers)

    def end(self, call: Call, ticket: Ticket, *, final: bool) -> None:
        """End the call, whatever it was doing here."""
        place = ticket.place
        used = place is not None and any(
            attempt.worker.id == place.worker and not attempt.refused for attempt in call.attempts
        )
        self._rules.end(ticket, monotonic(), used=used, final=final)
        self._arm()

    def forget(self, session_id: str, principal: str | None) -> None:
        """Let a session go that is over; `principal` None: whoever's it is."""
        self._rules.places.forget(session_id, principal)

    def report(self) -> AdmissionReport:
        ids, now = [worker.id for worker in self._workers.all], monotonic()
        return report_of(self._rules, ids, self._counts, self._options.max_waiting, now)

    def _limit_of(self, worker_id: str) -> int | None:
        return self._options.limit_of(worker_id)

    async def _admit(
        self, call: Call, ticket: Ticket, workers: Sequence[Worker]
    ) -> Sequence[Worker]:
        free = frozenset(self._rules.free([worker.id for worker in workers]))
        if not free:
            await self._wait(call, ticket, [worker.id for worker in workers])
        roomy = [worker for worker in workers if worker.id in free]
        picked = await self._picked(call, roomy)
        if picked.id not in self._rules.free([picked.id]) or ticket.place is not None:
            raise ChooseAgain  # another plugin has waited meanwhile
        self._rules.take(ticket, picked.id)
        return [picked]

    async def _picked(self, call: Call, workers: Sequence[Worker]) -> Worker:
        """Return the worker that the other plugins pick, else the one with the fewest sessions."""
        for hook in self._gateway.hooks("pick_worker"):
            found = hook.run(call, workers)
            picked = await found if isawaitable(found) else found
            if isinstance(picked, Worker) and picked in workers:
                return picked
        hot = self._rules.places.hot
        return min(workers, key=lambda worker: (hot(worker.id) / worker.weight, worker.load))

    async def _wait(self, call: Call, ticket: Ticket, workers: Sequence[str]) -> NoReturn:
        """Wait for a place. Raises ChooseAgain then, and CallError if that takes too long."""
        now = monotonic()
        self._join(call, ticket, workers, now)
        awake: asyncio.Future[None] = self._loop.create_future()
        ticket.wake = partial(_wake, awake)
        late = (ticket.since or now) + self._options.max_wait - now
        seconds = LOOK_AGAIN if ticket.patient else min(max(late, 0.0), LOOK_AGAIN)
        try:
            await asyncio.wait([awake], timeout=seconds)
        except asyncio.CancelledError:
            self._counts.left += 1
            raise
        finally:
            ticket.wake = None
            self._counts.waited_seconds += monotonic() - now
        if not awake.done() and not ticket.patient and late <= seconds:
            self._counts.refused_late += 1
            said = f"no worker had a place for the session within {self._options.max_wait:g} s"
            raise self._refusal("queue_timeout", said)
        raise ChooseAgain

    def _join(self, call: Call, ticket: Ticket, workers: Sequence[str], now: float) -> None:
        """Let the call wait, with the time that it has left. Raises CallError if it may not."""
        if not ticket.waits:
            options, principal = self._options, call.principal
            patient = principal is not None and options.patient_scope in principal.scopes
            if len(self._rules.line) >= options.max_waiting and not patient:
                self._counts.refused_full += 1
                said = f"{len(self._rules.line)} calls wait until their sessions may begin"
                raise self._refusal("queue_full", said)
            self._counts.waited += 1
            ticket.patient = patient
            ticket.since = now
        self._rules.wait(ticket, workers)

    def _refusal(self, code: str, message: str) -> CallError:
        return refusal(self._options.status, code, message, seconds=self._options.max_wait)

    def _wake_all(self) -> None:
        for ticket in list(self._rules.line):
            if ticket.wake is not None:
                ticket.wake()

    def _arm(self) -> None:
        """Ring when the next session has been idle for too long, if anybody waits for that."""
        due = self._rules.places.next_expiry()
        if self._timer is None and due is not None and not self._closed:
            self._timer = self._loop.call_later(max(due - monotonic(), 0.001), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._rules.places.expire(monotonic())
        self._arm()


def _wake(awake: "asyncio.Future[None]") -> None:
    if not awake.done():
        awake.set_result(None)
