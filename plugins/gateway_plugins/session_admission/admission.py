"""Who gets a place: places and line together, still without a clock.

Invariant between calls of these methods: no worker has a free place for which a ticket in the line
waits. So a session that comes may take any free place that it sees, and overtakes nobody.
"""

from collections.abc import Iterable, Sequence

from gateway_plugins.session_admission.line import Line, Ticket
from gateway_plugins.session_admission.places import Limit, Place, Places, SessionKey


class Admission:
    """The places of sessions, and the calls that wait for one. Times are monotonic seconds."""

    def __init__(self, limit: Limit, ttl: float) -> None:
        self.line = Line()
        self.places = Places(limit, ttl, self._on_free)
        self._numbers = 0
        self._due: list[str] = []
        self._deals = False

    def ticket(self, key: SessionKey) -> Ticket:
        """Return a ticket for a new call."""
        self._numbers += 1
        return Ticket(key, self._numbers)

    def hot_at(self, ticket: Ticket, workers: Sequence[str], now: float) -> str | None:
        """Return which of the workers has the call's session; the call then has a place there.

        None if the session has to get a place. A place at another worker is given up: that worker
        cannot take the call.
        """
        self.places.expire(now)
        place = ticket.place
        if place is not None and place.worker in workers:
            return place.worker
        ticket.place = None
        found = self.places.of(ticket.key, workers)
        if found is not None:
            self._enter(ticket, found)
        if place is not None:
            self._give_up(place, now)
        return None if found is None else found.worker

    def free(self, workers: Sequence[str]) -> list[str]:
        """Return those of the workers that have a free place."""
        return [worker for worker in workers if self.places.room(worker) > 0]

    def take(self, ticket: Ticket, worker: str) -> None:
        """Give the call's session a free place. Raises ValueError if there is none."""
        self._enter(ticket, self.places.take(ticket.key, worker))

    def wait(self, ticket: Ticket, workers: Sequence[str]) -> None:
        """Let the call wait for a place at one of the workers, none of which has a free one."""
        self.line.join(ticket, workers)

    def end(self, ticket: Ticket, now: float, *, used: bool = True, final: bool = False) -> None:
        """Note that a call is over.

        `used`: the worker of its place has had it; `final`: its session is over, too.
        """
        self.line.drop(ticket)
        place, ticket.place = ticket.place, None
        if place is None:
            return
        place.used |= used
        if final:
            place.leaves = "final"
        self.places.end(place, now)

    def look(self, workers: Iterable[str], now: float) -> None:
        """Give out what is free, as limits or workers have changed, or time has passed."""
        self.places.expire(now)
        for worker in workers:
            self._on_free(worker)

    def _enter(self, ticket: Ticket, place: Place) -> None:
        ticket.place = place
        self.line.drop(ticket)
        self.places.begin(place)

    def _give_up(self, place: Place, now: float) -> None:
        place.leaves = place.leaves or "moved"
        self.places.end(place, now)

    def _on_free(self, worker: str) -> None:
        """Deal at this worker, once the dealing that has freed its place is done."""
        self._due.append(worker)
        if self._deals:
            return
        self._deals = True
        try:
            while self._due:
                self._deal(self._due.pop())
        finally:
            self._deals = False

    def _deal(self, worker: str) -> None:
        """Give the free places of a worker to those who wait for them."""
        while self.line and self.places.room(worker) > 0:
            tickets = self.line.serve(worker)
            if not tickets:
                return
            place = self.places.of(tickets[0].key, [worker])
            place = place or self.places.take(tickets[0].key, worker)
            for ticket in tickets:
                self._enter(ticket, place)
                if ticket.wake is not None:
                    ticket.wake()
