"""The waiting calls, and the order in which they are served.

Calls of higher priority come first; then those whose principal has the fewest calls in flight, then
those whose session has the fewest; among equals, the first to arrive. A principal with a thousand
calls thus delays a principal with a single call by about one call. The algorithm is Fair Queuing's
round robin over flows, applied twice (Nagle, RFC 970), by calls in flight rather than by data sent,
as a call's length is not known.
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakValueDictionary

from gateway import Call, CallError, Worker
from gateway_plugins.backpressure.ranked import Rank, Ranked

Key = tuple[str | None, ...]
"""A principal's id; with a session id as second part, one session of that principal."""


class Kind(NamedTuple):
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


class Party:
    """A principal, or one of its sessions. It lives as long as one of its calls."""

    __slots__ = ("__weakref__", "groups", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.groups: set[Group] = set()

    def count(self, more: int) -> None:
        self.in_flight += more
        for group in self.groups:
            group.refresh()


class Ticket:
    """A call that needs a worker, from its first look at the workers to its end.

    `arrival` numbers the tickets of a gateway. `in_flight`: the call has a slot, or is about to.
    `outcome` exists while the call waits; its result is an error, or None to choose again. `until`
    is the deadline of the wait, in the loop's time, for the attempt numbered `attempt`.
    """

    __slots__ = (
        "arrival",
        "attempt",
        "call",
        "group",
        "in_flight",
        "outcome",
        "principal",
        "priority",
        "seen",
        "session",
        "since",
        "until",
    )

    def __init__(
        self, call: Call, arrival: int, priority: int, principal: Party, session: Party
    ) -> None:
        self.call = call
        self.arrival = arrival
        self.priority = priority
        self.principal = principal
        self.session = session
        self.in_flight = False
        self.group: Group | None = None
        self.outcome: asyncio.Future[CallError | None] | None = None
        self.attempt = self.seen = -1
        self.since = self.until = 0.0

    def fly(self, in_flight: bool) -> None:
        """Set whether the call counts as in flight for its principal and its session."""
        if in_flight is not self.in_flight:
            self.in_flight = in_flight
            self.principal.count(1 if in_flight else -1)
            self.session.count(1 if in_flight else -1)


class Group:
    """Waiting calls, or groups of them, in order.

    A group ranks by `urgency`, by the calls in flight of `party`, and by its first member.
    """

    __slots__ = ("above", "groups", "key", "members", "party", "urgency")

    def __init__(
        self, above: "Group | None", key: object, party: Party | None, urgency: Rank
    ) -> None:
        self.above = above
        self.key = key
        self.party = party
        self.urgency = urgency
        self.members: Ranked[Group | Ticket] = Ranked()
        self.groups: dict[object, Group] = {}
        if party is not None:
            party.groups.add(self)

    def within(self, party: Party, urgency: Rank = ()) -> "Group":
        """Return the member group of that party and urgency; create it if it is missing."""
        key = (party, urgency)
        found = self.groups.get(key)
        if found is None:
            found = self.groups[key] = Group(self, key, party, urgency)
        return found

    def refresh(self) -> None:
        """Update the rank of the group in the group above, and all ranks above that.

        An empty group is dropped.
        """
        if self.above is None:
            return
        first = self.members.first()
        if first is not None and self.party is not None:
            self.above.members.put(self, (*self.urgency, self.party.in_flight, *first[0]))
        else:
            self._leave(self.above)
        self.above.refresh()

    def _leave(self, above: "Group") -> None:
        above.members.drop(self)
        above.groups.pop(self.key, None)
        if self.party is not None:
            self.party.groups.discard(self)

    def first(self) -> Ticket:
        """Return the first ticket. Raises LookupError if no call waits here."""
        found = self.members.first()
        if found is None:
            raise LookupError("nobody waits here")
        item = found[1]
        return item.first() if isinstance(item, Group) else item


class Order:
    """All waiting calls of one gateway, by the workers that they can use."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, Group] = {}
        self._waiting: dict[Ticket, Kind] = {}
        self._parties: WeakValueDictionary[Key, Party] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._waiting)

    def party(self, *key: str | None) -> Party:
        """Return the party of a key: the same object as long as anything holds it."""
        found = self._parties.get(key)
        if found is None:
            self._parties[key] = found = Party()
        return found

    def join(self, ticket: Ticket, kind: Kind) -> None:
        self._waiting[ticket] = kind
        top = self._kinds.get(kind)
        if top is None:
            top = self._kinds[kind] = Group(None, kind, None, ())
        group = top.within(ticket.principal, (-ticket.priority,)).within(ticket.session)
        group.members.put(ticket, (ticket.arrival,))
        group.refresh()
        ticket.group = group

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket; do nothing if it does not wait."""
        kind = self._waiting.pop(ticket, None)
        if kind is None or ticket.group is None:
            return
        ticket.group.members.drop(ticket)
        ticket.group.refresh()
        ticket.group = None
        if not self._kinds[kind].members:
            del self._kinds[kind]

    def kinds(self) -> list[Kind]:
        return list(self._kinds)

    def first(self, kinds: list[Kind]) -> Ticket | None:
        """Return the ticket to serve next among those of `kinds`; None if there is none."""
        tops = (self._kinds[kind] for kind in kinds if kind in self._kinds)
        ranked = [(found[0], top) for top in tops if (found := top.members.first())]
        return min(ranked, key=lambda pair: pair[0])[1].first() if ranked else None

    def kind_of(self, ticket: Ticket) -> Kind:
        """Kind of a ticket that waits."""
        return self._waiting[ticket]
