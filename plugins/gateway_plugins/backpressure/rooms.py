"""Room of the workers, less the slots promised to calls that waited for them."""

import math
from collections.abc import Sequence

from gateway import Worker, Workers
from gateway_plugins.backpressure.order import Promise, Ticket


class Rooms:
    """The room of one gateway's workers. The core takes and frees slots; this class never does."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._promises = 0
        self._awake: set[Ticket] = set()
        self._held: dict[Worker, int] = {}
        self._seen: Sequence[Worker] = ()
        self._spare = 0.0

    @property
    def promised(self) -> int:
        """Number of slots promised and not yet taken."""
        self._settle()
        return self._promises

    def look_again(self) -> None:
        """Drop the cached room, as the limits or the workers have changed."""
        self._spare = 0.0

    def of(self, worker: Worker) -> float:
        """Free slots of a worker; inf if the worker has no limit."""
        slots = worker.slots
        if slots.limit is None:
            return math.inf
        room = slots.limit - slots.used
        return room - self._held[worker] if worker in self._held else room

    def overall(self) -> float:
        """Free slots of all workers together; inf if there is no overall limit."""
        if self._awake:
            self._settle()
        slots = self._workers.slots
        if slots.limit is None:
            return math.inf
        return slots.limit - slots.used - self._promises

    def free(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Return the workers with room; if all have room, the given sequence itself.

        If the smallest room is n, no worker is full before n more calls have passed, so most calls
        check no worker: a choice among 256 costs on average as much as a choice among two.
        """
        if workers is self._seen and self._spare > 0 and not self._promises:
            self._spare -= 1
            return workers
        least = overall = self.overall()
        free: list[Worker] = []
        if overall > 0:
            for worker in workers:
                room = self.of(worker)
                if room > 0:
                    free.append(worker)
                if room < least:
                    least = room
        self._seen, self._spare = workers, least - 1
        return workers if least > 0 and free else free

    def promise(self, ticket: Ticket, worker: Worker | None) -> None:
        ticket.promise = Promise(worker, len(ticket.call.attempts))
        self._promises += 1
        if worker is not None:
            self._held[worker] = self._held.get(worker, 0) + 1
        self._spare = 0.0

    def kept(self, ticket: Ticket, promise: Promise, workers: Sequence[Worker]) -> list[Worker]:
        """Return those of `workers` that the promise allows; none if it cannot be kept."""
        if promise.attempts != len(ticket.call.attempts):
            return []
        self._awake.add(ticket)
        worker = promise.worker
        if worker is None:
            return [one for one in workers if self.of(one) > 0 and not one.slots.full]
        return [worker] if worker in workers and not worker.slots.full else []

    def release(self, ticket: Ticket) -> Promise | None:
        """Take back the ticket's promise and return it; None if there is none."""
        promise = ticket.promise
        if promise is None:
            return None
        ticket.promise = None
        self._promises -= 1
        self._awake.discard(ticket)
        worker = promise.worker
        if worker is not None:
            self._held[worker] -= 1
            if not self._held[worker]:
                del self._held[worker]
        return promise

    def _settle(self) -> None:
        """Forget promises that have become attempts.

        Nothing waits between the slot and the beginning of the attempt.
        """
        for ticket in tuple(self._awake):
            promise = ticket.promise
            if promise is not None and len(ticket.call.attempts) != promise.attempts:
                self.release(ticket)
