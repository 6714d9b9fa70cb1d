"""Who waits, and in which order they are served.

First those of higher priority; then those whose principal has the fewest calls in flight, then
those whose session has; among equals, who came first. So a principal with a thousand calls delays
one with a single call by about one call. It is Fair Queuing's round robin over flows, taken twice
(Nagle, RFC 970), by what is in flight rather than by what was sent: a call's length is not known.
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakValueDictionary

from gateway import Call, CallError, Worker
from gateway_plugins.backpressure.ranked import Rank, Ranked

Key = tuple[str | None, ...]
"""A principal's id; with its session's as a second part, a session of that principal."""


class Kind(NamedTuple):
    """The workers that some who wait can use: those that serve `model`, less these two sets.

    `tried` have failed on the call, so they are no good; those `barred` another plugin left out.
    """

    model: str | None
    tried: frozenset[Worker]
    barred: frozenset[Worker]

    def includes(self, worker: Worker) -> bool:
        if worker in self.tried or worker in self.barred:
            return False
        return self.model is None or worker.serves(self.model)


class Party:
    """A principal, or one session of it. It lasts as long as a call of it."""

    __slots__ = ("__weakref__", "groups", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.groups: set[Group] = set()

    def count(self, more: int) -> None:
        self.in_flight += more
        for group in self.groups:
            group.refresh()


class Ticket:
    """A call that needs a worker, from its first look at them to its end.

    `arrival` counts the tickets of a gateway. `in_flight`: it has a slot, or is about to.
    `outcome` is there while it waits, and is set to how that ends: an error, or None to choose
    again. `until` is when it has waited too long, in the loop's time, for the attempt numbered
    `attempt`.
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
        """Count it for its principal and its session, or do so no more."""
        if in_flight is not self.in_flight:
            self.in_flight = in_flight
            self.principal.count(1 if in_flight else -1)
            self.session.count(1 if in_flight else -1)


class Group:
    """Those who wait, or groups of them, in order; it ranks by `urgency`, `party` and its first."""

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
        """The group of that party, of that urgency, among its members."""
        key = (party, urgency)
        found = self.groups.get(key)
        if found is None:
            found = self.groups[key] = Group(self, key, party, urgency)
        return found

    def refresh(self) -> None:
        """Rank it anew where it is a member, and all above it; where it is empty, drop it."""
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
        """Raises LookupError where nobody waits."""
        found = self.members.first()
        if found is None:
            raise LookupError("nobody waits here")
        item = found[1]
        return item.first() if isinstance(item, Group) else item


class Order:
    """All who wait in one gateway, by the workers that they can use."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, Group] = {}
        self._waiting: dict[Ticket, Kind] = {}
        self._parties: WeakValueDictionary[Key, Party] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._waiting)

    def party(self, *key: str | None) -> Party:
        """The same one as long as anybody holds it."""
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
        """Nothing happens where it does not wait."""
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
        """The one to be served next among those of `kinds`."""
        tops = (self._kinds[kind] for kind in kinds if kind in self._kinds)
        ranked = [(found[0], top) for top in tops if (found := top.members.first())]
        return min(ranked, key=lambda pair: pair[0])[1].first() if ranked else None

    def kind_of(self, ticket: Ticket) -> Kind:
        """What a ticket that waits can use."""
        return self._waiting[ticket]
