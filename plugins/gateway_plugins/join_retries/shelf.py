"""The responses that a retry may join: found by their requests, bounded in memory and time."""

import asyncio
from time import monotonic

from gateway_plugins.join_retries.asked import Place, Request
from gateway_plugins.join_retries.options import KIB, Options
from gateway_plugins.join_retries.response import KeptResponse

GRANT = 64 * KIB
"""Bytes that a response gets at once, so that few writes have to ask."""

OWN = KIB
"""Bytes of memory that a response takes beside its request and its pieces."""


class Responses:
    """The responses by request and by Idempotency-Key. A Shelf, see KeptResponse.

    `used` are the bytes that they take, as they may grow. `dropped` counts those for which there
    was no room. Whole ones give up their room to others, the oldest first. `closing`: the gateway
    shuts down, so no retry can come.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.used = self.dropped = 0
        self.closing = False
        self._by_place: dict[Place, list[KeptResponse]] = {}
        self._by_key: dict[tuple[str | None, str | None], KeptResponse] = {}
        self._whole: dict[KeptResponse, asyncio.TimerHandle] = {}

    @property
    def grace(self) -> float:
        return 0.0 if self.closing else self.options.grace

    def of_key(self, request: Request) -> KeptResponse | None:
        """Return the response to the call that had the request's Idempotency-Key."""
        return self._by_key.get(request.owner_and_key)

    def left(self, request: Request, within: float | None = None) -> KeptResponse | None:
        """Return a response to the same request whose caller has left before it had all.

        One that no retry reads, the latest first; else, if a session is named, one that another
        retry reads. `within`: the seconds since its caller left, and only one that no retry reads.
        """
        joined = None
        for kept in reversed(self._by_place.get(request.place, ())):
            if kept.left_at is None or kept.delivered or kept.request.body != request.body:
                continue
            if within is not None and monotonic() - kept.left_at > within:
                continue
            if not kept.followers:
                return kept
            joined = joined or kept
        return joined if within is None and request.has_session else None

    def add(self, kept: KeptResponse) -> bool:
        """Keep a response that begins; False if there is no room for it."""
        request = kept.request
        size = request.place[-1] + OWN
        if self.used + size > self.options.max_bytes and not self._make_room(size):
            self.dropped += 1
            return False
        self.used += size
        place = request.place
        if place in self._by_place:
            self._by_place[place].append(kept)
        else:
            self._by_place[place] = [kept]
        if request.key is not None:
            self._by_key[request.owner_and_key] = kept
        return True

    def grow(self, kept: KeptResponse, size: int) -> bool:
        """Give a response at least `size` bytes more."""
        size = max(size, GRANT)
        if kept.size > self.options.max_response_bytes or not self._make_room(size):
            self.dropped += 1
            return False
        kept.room += size
        self.used += size
        return True

    def ended(self, kept: KeptResponse) -> None:
        """Keep a whole response for a while, unless it is an error, or nobody can ask for it."""
        if kept.status >= 400 or (kept.delivered and kept.request.key is None):
            self.drop(kept)
            return
        kept.compact()
        self.used -= kept.room - kept.size
        kept.room = kept.size
        loop = asyncio.get_running_loop()
        self._whole[kept] = loop.call_later(self.options.keep, self.drop, kept)

    def drop(self, kept: KeptResponse) -> None:
        """Forget a response, and give back its room."""
        request, place = kept.request, kept.request.place
        same = self._by_place.get(place)
        if same is None or kept not in same:
            return
        same.remove(kept)
        if not same:
            del self._by_place[place]
        if request.key is not None and self.of_key(request) is kept:
            del self._by_key[request.owner_and_key]
        if kept in self._whole:
            self._whole.pop(kept).cancel()
        self.used -= place[-1] + OWN + kept.room
        kept.room = 0

    def alone(self) -> list[KeptResponse]:
        """Return the responses of calls that run, and that nobody gets now."""
        every = (kept for same in self._by_place.values() for kept in same)
        return [kept for kept in every if kept.is_alone and kept.state == "running"]

    def clear(self) -> None:
        for same in list(self._by_place.values()):
            for kept in list(same):
                self.drop(kept)

    def _make_room(self, size: int) -> bool:
        most = self.options.max_bytes
        while self.used + size > most and self._whole:
            self.drop(next(iter(self._whole)))
        return self.used + size <= most
