"""The waiting calls, and the order in which they are served.

Calls of higher priority come first; then those whose principal has the fewest calls in flight, then
those whose session has the fewest; among equals, the first to arrive. A principal with a thousand
calls thus delays a principal with a single call by about one call. The algorithm is Fair Queuing's
round robin over flows, applied twice (Nagle, RFC 970), by calls in flight rather than by data sent,
as a call's length is not known.
"""

import asyncio
from bisect import insort
from collections.abc import Iterator
from operator import attrgetter
from typing import Protocol

import msgspec

from gateway import Call, CallError, Outcome, Worker
from gateway_plugins.backpressure.ranked import Rank, Ranked

_arrival = attrgetter("arrival")


class Kind(msgspec.Struct, frozen=True):
    """The workers that a group of waiting calls can use: those that serve `model`, less two sets.

    The workers in `tried` have failed the call; another plugin left out those in `barred`.
    """

    model: str | None
    tried: frozenset[Worker]
    barred: frozenset[Worker]

    def includes(self, worker: Worker) -> bool:
        if worker in self.tried or worker in self.barred:
            return False
        return self.model is None or worker.serves(self.model)

    def among(self, workers: list[Worker]) -> list[Worker]:
        """Return those of `workers` that it includes."""
        if self.model is None and not (self.tried or self.barred):
            return workers
        return [worker for worker in workers if self.includes(worker)]


ANY = Kind(None, frozenset(), frozenset())
"""The kind of nearly all calls: they can use every worker."""


class Session(msgspec.Struct, eq=False):
    """One session of a principal, as long as it has `calls`; `queues` are those that wait."""

    id: str | None
    calls: int = 0
    in_flight: int = 0
    queues: list["Queue"] = []


class Party(msgspec.Struct, eq=False):
    """A principal, as long as it has calls, with its sessions; `flows` are those that wait."""

    id: str | None
    in_flight: int = 0
    sessions: dict[str | None, Session] = {}
    flows: list["Flow"] = []


class Promise(msgspec.Struct, frozen=True, eq=False):
    """A slot that a ticket is about to take: of `worker`, or of all workers together (None).

    The promise ends when an attempt begins, as the slot then counts as used.
    """

    worker: Worker | None
    attempts: int


class Keeper(Protocol):
    """What a ticket needs of its gate."""

    def done(self, ticket: "Ticket") -> None: ...


class Ticket(msgspec.Struct, eq=False):
    """A call that needs a worker: its observer at the gate, from the first choice to its end.

    It sees the call's end before anything can wait. `arrival` numbers the tickets of a gateway.
    `in_flight`: the call has a slot, or is about to; `principal` and `session` count it once it or
    another call has to wait, and are None before. `outcome` exists while the call waits; its result
    is an error, or None to choose again. `attempt` is the number of the attempt that the call has
    waited for, `since` when it began to. `patient`: it waits for that attempt without a time limit.
    """

    call: Call
    arrival: int
    priority: int = 0
    gate: Keeper | None = None
    in_flight: bool = False
    principal: Party | None = None
    session: Session | None = None
    queue: "Queue | None" = None
    promise: Promise | None = None
    outcome: "asyncio.Future[CallError | None] | None" = None
    attempt: int = -1
    seen: int = -1
    since: float = 0.0
    patient: bool = False

    def finished(self, outcome: Outcome) -> None:
        if self.gate is not None:
            self.gate.done(self)

    def fly(self, in_flight: bool) -> None:
        """Set whether the call counts as in flight for its principal and its session."""
        principal, session = self.principal, self.session
        if in_flight is self.in_flight or principal is None or session is None:
            return
        self.in_flight = in_flight
        change = 1 if in_flight else -1
        principal.in_flight += change
        session.in_flight += change
        if principal.flows and not in_flight:
            _rise(principal, session)


class Queue(msgspec.Struct, eq=False):
    """Calls of one session that wait, in the order of their arrival: never empty while listed."""

    session: Session
    flow: "Flow"
    tickets: list[Ticket] = []
    listed: Rank | None = None

    def rank(self) -> Rank:
        return self.session.in_flight, self.tickets[0].arrival


class Flow(msgspec.Struct, eq=False):
    """Queues of one principal, of one priority: never empty while listed.

    It ranks by the priority, by the calls in flight of the principal, and by its first queue.
    """

    principal: Party
    line: "Line"
    priority: int
    ranked: Ranked[Queue]
    queues: dict[Session, Queue] = {}
    listed: Rank | None = None

    def rank(self) -> Rank:
        head = self.ranked.first()
        rank = () if head is None else head.rank()
        return (-self.priority, self.principal.in_flight, *rank)

    def first(self) -> Ticket | None:
        """Return the ticket to serve next."""
        head = self.ranked.first()
        return None if head is None else head.tickets[0]


class Line(msgspec.Struct, eq=False):
    """The flows of one kind."""

    ranked: Ranked[Flow]
    flows: dict[tuple[Party, int], Flow] = {}


def _rise(principal: Party, session: Session) -> None:
    """Rank anew what may come earlier now, as a call of these has ended."""
    for queue in session.queues:
        queue.flow.ranked.offer(queue)
    for flow in principal.flows:
        before = principal.in_flight + 1 if flow.listed is None else flow.listed[1]
        if before > principal.in_flight or (session.queues and before == principal.in_flight):
            flow.line.ranked.offer(flow)


class Order:
    """All waiting calls of one gateway, by the workers that they can use.

    `waiting` has the kind of each ticket that waits, and `lines` those of each kind. `passing` are
    the tickets that got a slot while nobody waited: they are counted only once somebody does, which
    most never see.
    """

    def __init__(self) -> None:
        self.waiting: dict[Ticket, Kind] = {}
        self.passing: set[Ticket] = set()
        self.lines: dict[Kind, Line] = {}
        self._parties: dict[str | None, Party] = {}

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self.waiting)

    def go(self, ticket: Ticket) -> None:
        """Let a ticket that does not wait have a slot."""
        if ticket.session is not None:
            ticket.fly(True)
        elif self.waiting:
            self.begin(ticket, in_flight=True)
        else:
            self.passing.add(ticket)

    def begin(self, ticket: Ticket, *, in_flight: bool = False) -> None:
        """Tell a new ticket its principal and its session; `in_flight` as in `Ticket.fly`."""
        call, parties = ticket.call, self._parties
        name, id_ = None if call.principal is None else call.principal.id, call.session_id
        if name not in parties:
            parties[name] = Party(name)
        party = parties[name]
        if id_ not in party.sessions:
            party.sessions[id_] = Session(id_)
        session = party.sessions[id_]
        session.calls += 1
        ticket.principal, ticket.session, ticket.in_flight = party, session, in_flight
        if in_flight:
            party.in_flight += 1
            session.in_flight += 1

    def end(self, ticket: Ticket) -> None:
        """Forget a ticket, whatever it was doing."""
        party, session = ticket.principal, ticket.session
        if party is None or session is None:
            self.passing.discard(ticket)
            return
        if self.waiting:
            ticket.fly(False)
            if ticket.queue is not None:
                self.leave(ticket)
        elif ticket.in_flight:
            ticket.in_flight = False
            party.in_flight -= 1
            session.in_flight -= 1
        ticket.principal = ticket.session = None
        session.calls -= 1
        if not session.calls:
            del party.sessions[session.id]
            if not party.sessions:
                del self._parties[party.id]

    def join(self, ticket: Ticket, kind: Kind) -> None:
        """Let a ticket wait that does not wait yet."""
        while self.passing:
            self.begin(self.passing.pop(), in_flight=True)
        if ticket.session is None:
            self.begin(ticket)
        elif ticket.in_flight:
            ticket.fly(False)
        self.waiting[ticket] = kind
        queue = ticket.queue = self._queue(ticket, kind)
        tickets = queue.tickets
        if tickets and tickets[-1].arrival < ticket.arrival:
            tickets.append(ticket)
            return
        insort(tickets, ticket, key=_arrival)
        flow = queue.flow
        flow.ranked.offer(queue)
        if flow.listed is None or queue.rank() < flow.listed[2:]:
            flow.line.ranked.offer(flow)

    def _queue(self, ticket: Ticket, kind: Kind) -> Queue:
        """Return the queue of the ticket's session; create it if it is missing."""
        principal, session = ticket.principal, ticket.session
        assert principal is not None  # as `join` has let it begin
        assert session is not None
        lines, key = self.lines, (principal, ticket.priority)
        line = lines[kind] if kind in lines else lines.setdefault(kind, Line(Ranked()))
        if key not in line.flows:
            line.flows[key] = Flow(principal, line, ticket.priority, Ranked())
            principal.flows.append(line.flows[key])
        flow = line.flows[key]
        if session not in flow.queues:
            flow.queues[session] = Queue(session, flow)
            session.queues.append(flow.queues[session])
        return flow.queues[session]

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket; do nothing if it does not wait."""
        queue = ticket.queue
        if queue is None:
            return
        ticket.queue = None
        kind = self.waiting.pop(ticket)
        tickets = queue.tickets
        if tickets[0] is ticket:
            del tickets[0]
        else:
            tickets.remove(ticket)
        if not tickets:
            self._drop(queue, kind)

    def _drop(self, queue: Queue, kind: Kind) -> None:
        """Remove an empty queue, and all that is empty without it."""
        flow, session = queue.flow, queue.session
        flow.ranked.drop(queue)
        session.queues.remove(queue)
        del flow.queues[session]
        if flow.queues:
            return
        line = flow.line
        line.ranked.drop(flow)
        flow.principal.flows.remove(flow)
        del line.flows[flow.principal, flow.priority]
        if not line.flows:
            del self.lines[kind]

    def next_for(self, workers: list[Worker]) -> tuple[Ticket, list[Worker]] | None:
        """Return the ticket to serve next, and those of `workers` that it can use: at least one.

        None if no ticket can use any of them.
        """
        best: Flow | None = None
        its: list[Worker] = []
        for kind, line in self.lines.items():
            usable = workers if kind is ANY else kind.among(workers)
            flow = line.ranked.first() if usable else None
            if flow is not None and (best is None or flow.rank() < best.rank()):
                best, its = flow, usable
        ticket = None if best is None else best.first()
        return None if ticket is None else (ticket, its)

    def first(self, kind: Kind) -> Ticket | None:
        """Return the ticket to serve next among those of `kind`; None if there is none."""
        flow = self.lines[kind].ranked.first() if kind in self.lines else None
        return None if flow is None else flow.first()
