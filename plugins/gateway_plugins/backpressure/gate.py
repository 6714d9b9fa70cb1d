"""The gate before the workers: calls pass while there is room, and wait in order otherwise.

Invariant whenever the event loop is at rest: no worker has room that a waiting call could use. A
new call may therefore take any room that it sees. A slot that comes free is promised to the first
waiting call that can use it, and is kept for that call until its attempt begins; the call then
chooses again among the current workers, so that every other plugin can filter them.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from operator import attrgetter
from time import monotonic

from gateway import Call, CallError, ChooseAgain, Worker, Workers
from gateway_plugins.backpressure.deadlines import Deadlines
from gateway_plugins.backpressure.options import Options
from gateway_plugins.backpressure.order import ANY, Kind, Order, Ticket
from gateway_plugins.backpressure.pauses import Pauses
from gateway_plugins.backpressure.rate import Rate
from gateway_plugins.backpressure.refusing import absence, refusal
from gateway_plugins.backpressure.report import Counts, QueueReport, by_principal, by_priority
from gateway_plugins.backpressure.rooms import Rooms

NOBODY: frozenset[Worker] = frozenset()


class Gate:
    """The limits and the queue of one gateway, between `open` and `close`."""

    def __init__(self, options: Options, workers: Workers) -> None:
        self.counts = Counts()
        self._options = options
        self._workers = workers
        self._rooms = Rooms(workers)
        self._order = Order()
        self._rate = Rate(monotonic())
        self._tickets = 0
        self._changes = 0
        self._changed = False
        self._freed: dict[Worker, int] = {}
        self._pauses = Pauses(self._gain)
        self._deadlines = [Deadlines(options.queue.max_wait, self._expire)]
        self._is_due = False
        self._looking: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def open(self) -> None:
        self._workers.changed.append(self._on_change)
        self._workers.freed.append(self._on_freed)
        self._workers.hold = self._hold
        self._set_limits()

    def close(self) -> None:
        """Remove the limits; waiting calls go on without them."""
        self._closed = True
        self._workers.changed.remove(self._on_change)
        self._workers.freed.remove(self._on_freed)
        self._workers.hold = None
        self._pauses.close()
        for deadlines in self._deadlines:
            deadlines.close()
        self._workers.slots.limit = None
        for worker in self._workers.all:
            worker.slots.limit = None
        for ticket in list(self._order):
            self._wake(ticket)
        self._is_due = False
        if self._looking is not None:
            self._looking.cancel()

    def set_options(self, options: Options) -> None:
        """Replace the options. Waiting calls keep their places and their deadlines."""
        self._options = options
        if options.queue.max_wait != self._deadlines[0].seconds:
            new = Deadlines(options.queue.max_wait, self._expire)
            self._deadlines = [new, *(one for one in self._deadlines if len(one))]
        self._on_change()

    def ticket(self, call: Call, priority: int) -> Ticket:
        """Return a ticket for a new call."""
        self._tickets += 1
        return Ticket(call, self._tickets, priority, self)

    def enter(
        self, ticket: Ticket, workers: Sequence[Worker]
    ) -> Sequence[Worker] | Awaitable[Sequence[Worker]]:
        """Return those of `workers` with a slot for the call; if there are none, a wait.

        It or the wait raises ChooseAgain after the wait, or if the workers may have changed;
        CallError if the call may not wait, or has waited too long. The result is an empty sequence
        if waiting could bring no worker, and in place of that error if a worker has refused the
        call: its response says more.
        """
        if self._closed:
            return workers
        promise = ticket.promise
        if promise is not None:
            if kept := self._rooms.kept(ticket, promise, workers):
                return kept
            self._take_back(ticket)
        if self._is_due:
            self._look()
        if self._pauses.there:
            workers = self._pauses.open_to(ticket.call, workers, self._rooms.free)
        free = self._rooms.free(workers)
        if free:
            self._order.go(ticket)
            return free
        kind = self._kind(ticket.call, workers)
        if not workers and not self._may_change(kind):
            return workers
        if kind.barred:
            self._refuse_stale(ticket)
        return self._waited(ticket, kind)

    def done(self, ticket: Ticket) -> None:
        """End the call, whatever it was doing here."""
        if ticket.session is None:  # it never waited
            self._order.passing.discard(ticket)
            return
        self._order.end(ticket)
        if ticket.promise is not None:
            self._take_back(ticket)
        if ticket.since:
            for deadlines in self._deadlines:
                deadlines.drop(ticket)

    def report(self) -> QueueReport:
        waiting, now = list(self._order), monotonic()
        return QueueReport(
            length=len(waiting),
            max_length=self._options.queue.max_length,
            oldest_wait=max((now - ticket.since for ticket in waiting), default=0.0),
            drain_rate=self._rate.value(now),
            in_flight=self._workers.slots.used,
            promised=self._rooms.promised,
            max_in_flight=self._workers.slots.limit,
            max_in_flight_by_worker={one.id: one.slots.limit for one in self._workers.all},
            by_priority=by_priority(waiting),
            by_principal=by_principal(waiting),
            counts=self.counts,
        )

    # waiting

    async def _waited(self, ticket: Ticket, kind: Kind) -> Sequence[Worker]:
        """Wait until there may be a worker to choose.

        Raises ChooseAgain then, and CallError if that takes too long.
        """
        outcome: asyncio.Future[CallError | None] | None = None
        began = monotonic()
        try:
            self._admit(ticket, began)
            outcome = ticket.outcome = self._loop.create_future()
            self._order.join(ticket, kind)
            error = await outcome
        except CallError as full:
            error = full
        except asyncio.CancelledError:
            self.counts.left += 1
            raise
        finally:
            ticket.outcome = None
            if ticket.queue is not None:
                self._order.leave(ticket)
            if outcome is not None:
                self.counts.waited_seconds += monotonic() - began
        if error is None:
            raise ChooseAgain
        if _has_answer(ticket.call):
            return ()
        raise error

    def _admit(self, ticket: Ticket, now: float) -> None:
        """Check that the queue has a place for the call. Raises CallError if it is full.

        A call that has already waited for this attempt keeps its place, even in a full queue, and
        its deadline; a patient call has a place in any queue, and no deadline.
        """
        attempt, principal = len(ticket.call.tried), ticket.call.principal
        if ticket.attempt == attempt:
            if not (ticket.patient or any(ticket in deadlines for deadlines in self._deadlines)):
                self._deadlines[0].end(ticket)
            return
        patient = principal is not None and self._options.patient_scope in principal.scopes
        if len(self._order.waiting) >= self._options.queue.max_length and not patient:
            self.counts.refused_full += 1
            said = f"{len(self._order)} calls wait for a worker already"
            raise self._refusal(ticket.call, "queue_full", said)
        if not patient and self._comes_too_late(ticket.call, now):
            self.counts.refused_late += 1
            said = "the calls that wait already take longer than the time that the caller has"
            raise self._refusal(ticket.call, "queue_timeout", said)
        self.counts.waited += 1
        if ticket.since:
            for deadlines in self._deadlines:
                deadlines.drop(ticket)
        ticket.attempt, ticket.since, ticket.patient = attempt, now, patient
        if not patient:
            self._deadlines[0].add(ticket, now)

    def _comes_too_late(self, call: Call, now: float) -> bool:
        """Whether the caller's deadline is over before the estimate of the wait."""
        rate = self._rate.value(now) if call.deadline is not None else 0.0
        return rate > 0 and now + (len(self._order) + 1) / rate > (call.deadline or 0)

    def _expire(self, ticket: Ticket) -> None:
        if ticket.outcome is None:
            return
        self.counts.refused_late += 1
        said = f"no worker had room within {self._options.queue.max_wait:g} s"
        self._wake(ticket, self._refusal(ticket.call, "queue_timeout", said))

    def _refusal(self, call: Call, code: str, message: str) -> CallError:
        """Return the error for a call that may not wait, or not any longer.

        The error's time to wait assumes that a retry joins the end of the queue. Until the first
        slot comes free, it is the queue's `wait`. Without a fit worker it is the time until there
        may be one, whatever the `status` for a lack of room.
        """
        model = call.model if self._workers.mixed else None
        if not _permitted(call, self._workers.serving(model).fit):
            return absence(code, seconds=self._workers.seconds_until_fit(model))
        rate = self._rate.value(monotonic())
        seconds = (len(self._order) + 1) / rate if rate else self._options.queue.max_wait
        return refusal(self._options.status, code, message, seconds=seconds)

    def _wake(self, ticket: Ticket, error: CallError | None = None) -> None:
        """End the wait of a ticket; a call whose caller has just left needs no result."""
        self._order.leave(ticket)
        if ticket.outcome is not None and not ticket.outcome.done():
            ticket.outcome.set_result(error)

    def _kind(self, call: Call, workers: Sequence[Worker]) -> Kind:
        model = call.model if self._workers.mixed else None
        fit = self._workers.fit if model is None else self._workers.serving(model).fit
        tried = frozenset(call.tried) if call.tried else NOBODY
        if workers is fit:
            return Kind(model, tried, NOBODY) if model is not None or tried else ANY
        return Kind(model, tried, frozenset(fit).difference(workers) - tried)

    def _may_change(self, kind: Kind) -> bool:
        """Whether a call that got no worker may still get one by waiting."""
        if self._options.no_worker == "refuse":
            return False
        return bool(kind.barred) or not self._workers.serving(kind.model).fit

    def _refuse_stale(self, ticket: Ticket) -> None:
        """Choose again if the workers may have changed while another plugin filtered them.

        Raises ChooseAgain.
        """
        if ticket.seen != self._changes:
            ticket.seen = self._changes
            raise ChooseAgain

    def _hold(self, worker: Worker, model: str | None, began: float, asked_for: float) -> bool:
        may_wait = self._options.no_worker == "wait" and self._options.queue.max_length > 0
        return may_wait and self._pauses.refused(worker, model, began, asked_for)

    # granting

    def _on_freed(self, worker: Worker) -> None:
        self._rate.note(monotonic())
        if self._order.waiting:
            self._gain(worker)

    def _take_back(self, ticket: Ticket) -> None:
        """Take back the ticket's promise; its slot is free again if no attempt has taken it."""
        promise = self._rooms.release(ticket)
        if promise is not None and promise.attempts == len(ticket.call.attempts):
            self._gain(promise.worker)

    def _gain(self, worker: Worker | None, calls: int = 1) -> None:
        """Note room for more calls at `worker`; None: at some worker."""
        if self._order.waiting:
            if worker is not None:
                self._freed[worker] = self._freed.get(worker, 0) + calls
            if not self._is_due:
                self._look_soon()

    def _on_change(self) -> None:
        self._changes += 1
        self._changed = True
        self._set_limits()
        if self._order.waiting:
            for worker in self._workers.all:
                self._freed[worker] = len(self._order)
            self._look_soon()

    def _set_limits(self) -> None:
        options = self._options
        for worker in self._workers.all:
            worker.slots.limit = options.max_in_flight_by_worker.get(
                worker.id, options.max_in_flight_per_worker
            )
        self._workers.slots.limit = options.max_in_flight
        self._rooms.look_again()

    def _look_soon(self) -> None:
        """Schedule `_look` in the event loop.

        By then the call that has ended is counted as ended, and slots freed together are seen
        together.
        """
        if self._closed or not self._order.waiting:
            return
        self._is_due = True
        if self._looking is None:
            self._looking = self._loop.call_soon(self._look_now)

    def _look_now(self) -> None:
        self._looking = None
        if self._is_due:
            self._look()

    def _look(self) -> None:
        """Give the room there is to the calls that wait for it."""
        self._is_due = False
        freed, self._freed = self._freed, {}
        changed, self._changed = self._changed, False
        fit = self._workers.fit
        if changed or self._workers.slots.limit is not None:
            self._deal(fit)
        else:
            self._deal([worker for worker in freed if worker in fit])
        self._ask_again(freed, changed=changed)

    def _deal(self, workers: Sequence[Worker]) -> None:
        """Promise the room of these workers, slot by slot."""
        order, overall = self._order, self._rooms.overall()
        rooms = {worker: room for worker in workers if (room := self._rooms.of(worker)) > 0}
        while order.waiting and rooms and overall > 0:
            found = order.next_for(list(rooms))
            if found is None:
                return
            worker = self._grant(*found)
            overall -= 1
            if worker is not None:
                rooms[worker] -= 1
                if rooms[worker] <= 0:
                    del rooms[worker]

    def _grant(self, ticket: Ticket, workers: list[Worker]) -> Worker | None:
        """Promise one slot of the least loaded of `workers`, or of any worker; return the worker.

        The call may choose the worker itself if only the overall limit matters.
        """
        worker: Worker | None = workers[0]
        if len(workers) > 1:
            worker = min(workers, key=attrgetter("load"))
            if self._rooms.overall() == 1 or all(one.slots.limit is None for one in workers):
                worker = None
        self._rooms.promise(ticket, worker)
        self._wake(ticket)
        ticket.fly(True)
        return worker

    def _ask_again(self, freed: dict[Worker, int], *, changed: bool) -> None:
        """Wake calls that may now get a worker that another plugin left out before.

        At most as many calls are woken as these workers have room. After a change, all calls for
        which no worker is left are woken, too.
        """
        for kind in list(self._order.lines):
            if changed and self._is_hopeless(kind):
                self._send_back(kind, len(self._order))
            elif kind.barred:
                chances = sum(self._chances(worker, freed.get(worker, 0)) for worker in kind.barred)
                self._send_back(kind, chances)

    def _chances(self, worker: Worker, freed: int) -> int:
        return int(min(freed, max(self._rooms.of(worker), 0))) if freed and worker.fit else 0

    def _is_hopeless(self, kind: Kind) -> bool:
        """Whether no worker is left that calls of this kind have not tried."""
        fit = self._workers.serving(kind.model).fit
        if not fit:
            return self._options.no_worker == "refuse" or not self._workers.serving(kind.model).all
        return kind.tried.issuperset(fit)

    def _send_back(self, kind: Kind, most: int) -> None:
        while most > 0 and (ticket := self._order.first(kind)) is not None:
            self._wake(ticket)
            most -= 1


def _permitted(call: Call, workers: Sequence[Worker]) -> bool:
    """Whether the call's principal may use one of these workers."""
    named = None if call.principal is None else call.principal.workers
    return any(named is None or worker.id in named for worker in workers)


def _has_answer(call: Call) -> bool:
    """Whether a worker has refused the call by a response, which its caller gets in the end."""
    latest = call.attempts[-1] if call.attempts else None
    return latest is not None and latest.refused and latest.status is not None
