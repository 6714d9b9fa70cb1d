"""Calls that wait for a place, in the order in which they get one: principals take turns."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from gateway_plugins.session_admission.places import Place, SessionKey


class Ticket:
    """One call of a session: where it has a place, or for what it waits.

    `number` is the order of arrival. `workers` are the ids of those that may take the call.
    `waits`: it is in the line, `since` that time. `wake` is called when the call has got a place.
    `patient`: it waits for as long as it takes.
    """

    __slots__ = ("key", "number", "patient", "place", "since", "waits", "wake", "workers")

    def __init__(self, key: SessionKey, number: int) -> None:
        self.key = key
        self.number = number
        self.place: Place | None = None
        self.workers: frozenset[str] = frozenset()
        self.waits = False
        self.since: float | None = None
        self.patient = False
        self.wake: Callable[[], None] | None = None


_number = attrgetter("number")


class Line:
    """The tickets that wait. The principal that was served longest ago is served first.

    Of one principal the ticket that came first is served first, of those for a worker.
    """

    def __init__(self) -> None:
        self._turns: OrderedDict[str, list[Ticket]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Ticket]:
        for tickets in self._turns.values():
            yield from tickets

    def join(self, ticket: Ticket, workers: Sequence[str]) -> None:
        """Let the ticket wait for one of these workers; one that waits already keeps its place."""
        ticket.workers = frozenset(workers)
        if ticket.waits:
            return
        ticket.waits = True
        tickets = self._turns.setdefault(ticket.key.principal, [])
        tickets.append(ticket)
        tickets.sort(key=_number)  # one that comes back, as its worker is gone, is an old one
        self._count += 1

    def drop(self, ticket: Ticket) -> None:
        """Remove the ticket; do nothing if it is not here. Its principal keeps its turn."""
        if not ticket.waits:
            return
        ticket.waits = False
        principal = ticket.key.principal
        self._turns[principal].remove(ticket)
        self._count -= 1
        if not self._turns[principal]:
            del self._turns[principal]

    def serve(self, worker: str) -> list[Ticket]:
        """Remove and return the tickets of the next session for which `worker` has a place.

        Its principal is then the last to be served again. Empty if nobody waits for that worker.
        """
        for principal, tickets in self._turns.items():
            first = next((one for one in tickets if worker in one.workers), None)
            if first is not None:
                self._turns.move_to_end(principal)
                same = [one for one in tickets if one.key == first.key and worker in one.workers]
                for ticket in same:
                    self.drop(ticket)
                return same
        return []
