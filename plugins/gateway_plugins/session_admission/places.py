"""Which sessions are hot at which workers. The rules have no clock: each caller says the time."""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

Limit = Callable[[str], int | None]
"""Returns how many sessions may be hot at the worker of an id; None: any number."""

Reason = Literal["expired", "final", "deleted", "moved", "unused"]
"""Why a session has left its place."""


class SessionKey(NamedTuple):
    """A session of a principal ("" without one); `model` is "" if all workers serve the same."""

    principal: str
    session_id: str
    model: str = ""


class Place:
    """One session's place at one worker.

    `calls` are the calls of the session there that run or are about to. `ended` is the time when
    the last one ended. `used`: the worker has had a call of the session. `leaves`: the place is
    free as soon as no call is left, for that reason.
    """

    __slots__ = ("calls", "ended", "key", "leaves", "used", "worker")

    def __init__(self, key: SessionKey, worker: str) -> None:
        self.key = key
        self.worker = worker
        self.calls = 0
        self.ended = 0.0
        self.used = False
        self.leaves: Reason | None = None


class Places:
    """The places of all sessions: never more at a worker than `limit` says when one is taken.

    A place is free `ttl` seconds after the last call of the session has ended there. Times are
    monotonic seconds. `freed` is told the worker of each place that has come free.
    """

    def __init__(self, limit: Limit, ttl: float, freed: Callable[[str], None]) -> None:
        self.limit = limit
        self.ttl = ttl
        self.counts: Counter[Reason] = Counter()
        self._freed = freed
        self._by_session: dict[SessionKey, dict[str, Place]] = {}
        self._hot: Counter[str] = Counter()
        self._idle: OrderedDict[Place, None] = OrderedDict()

    def __iter__(self) -> Iterator[Place]:
        for places in self._by_session.values():
            yield from places.values()

    def hot(self, worker: str) -> int:
        """Return how many sessions are hot at the worker."""
        return self._hot[worker]

    def room(self, worker: str) -> float:
        """Return how many more sessions may be hot at the worker; inf: any number."""
        limit = self.limit(worker)
        return math.inf if limit is None else limit - self._hot[worker]

    def of(self, key: SessionKey, workers: Sequence[str]) -> Place | None:
        """Return the session's place at one of the workers; None if it has none there."""
        places = self._by_session.get(key)
        if not places:
            return None
        found = [places[worker] for worker in workers if worker in places]
        staying = (one for one in found if one.leaves is None)
        return next(staying, found[0] if found else None)

    def take(self, key: SessionKey, worker: str) -> Place:
        """Make the session hot at a worker with room; it leaves its other places for this one.

        Raises ValueError if the worker has no room, or the session a place there.
        """
        places = self._by_session.setdefault(key, {})
        if self.room(worker) < 1 or worker in places:
            raise ValueError(f"there is no place at {worker}, or the session has one")
        others = [*places.values()]
        place = places[worker] = Place(key, worker)
        self._hot[worker] += 1
        for other in others:
            self.leave(other, "moved")
        return place

    def begin(self, place: Place) -> None:
        """Note that one more call of the session runs there, or is about to."""
        place.calls += 1
        place.leaves = None
        self._idle.pop(place, None)

    def end(self, place: Place, now: float) -> None:
        """Note that one of these calls has ended."""
        place.calls -= 1
        if place.calls:
            return
        if place.leaves is not None or not place.used:
            self._free(place, place.leaves or "unused")
        else:
            place.ended = now
            self._idle[place] = None
            self.expire(now)

    def leave(self, place: Place, reason: Reason) -> None:
        """Let the session go as soon as it has no call there any more."""
        if place.calls:
            place.leaves = place.leaves or reason
        else:
            self._free(place, reason)

    def forget(self, session_id: str, principal: str | None) -> None:
        """Let a session go that is over; `principal` None: whoever's it is."""
        for place in [one for one in self if one.key.session_id == session_id]:
            if principal is None or place.key.principal == principal:
                self.leave(place, "deleted")

    def expire(self, now: float) -> None:
        """Let the sessions go whose time is over."""
        while (due := self.next_expiry()) is not None and due <= now:
            self._free(next(iter(self._idle)), "expired")

    def next_expiry(self) -> float | None:
        """Return the time when the next session will have been idle for too long."""
        first = next(iter(self._idle), None)
        return None if first is None else first.ended + self.ttl

    def _free(self, place: Place, reason: Reason) -> None:
        self._idle.pop(place, None)
        places = self._by_session[place.key]
        del places[place.worker]
        if not places:
            del self._by_session[place.key]
        self._hot[place.worker] -= 1
        if not self._hot[place.worker]:
            del self._hot[place.worker]
        self.counts[reason] += 1
        self._freed(place.worker)
