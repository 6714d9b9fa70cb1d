"""Delays failed attempts, counted by address, so that guessing tokens gets slower.

Each address has a bucket that leaks, as in the leaky bucket of traffic shaping: every failure adds
one to its level, which falls by FREE_PER_MINUTE per minute.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict

from gateway import TooManyRequests

FREE_PER_MINUTE = 10
"""Failures per minute that cause no delay."""

FIRST_DELAY, MAX_DELAY = 0.0625, 2.0
"""Seconds of delay of the first failure above FREE_PER_MINUTE, doubled by each further one, and the
maximum."""

MAX_LEVEL = FREE_PER_MINUTE + 10
"""Maximum level, so that even the worst address is forgotten within two minutes."""

MAX_ADDRESSES = 10_000
"""Maximum number of addresses to remember: those with the latest failures."""

MAX_WAITING = 100
"""Maximum number of responses that wait at a time."""


class Slowing:
    """Counts failures and delays their responses; `waiting` is how many responses wait now."""

    def __init__(self) -> None:
        self.waiting = 0
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def failed(self, client: str | None) -> None:
        """Record a failed attempt from this address, and sleep for the delay of its response.

        Raises TooManyRequests if too many responses wait already.
        """
        wait = self.wait_of(_network(client), time.monotonic())
        if wait <= 0:
            return
        if self.waiting >= MAX_WAITING:
            raise TooManyRequests(
                "too many attempts without a valid API key",
                code="too_many_failed_attempts",
                headers=((b"retry-after", b"%d" % max(1, MAX_DELAY)),),
            )
        self.waiting += 1
        try:
            await asyncio.sleep(wait)
        finally:
            self.waiting -= 1

    def wait_of(self, network: str, now: float) -> float:
        """Record a failure at `now`, and return its delay in seconds.

        `now` is in seconds of any clock that never goes back.
        """
        level, at = self._levels.pop(network, (0.0, now))
        level = min(MAX_LEVEL, max(0.0, level - (now - at) * FREE_PER_MINUTE / 60) + 1)
        self._levels[network] = level, now
        if len(self._levels) > MAX_ADDRESSES:
            self._levels.popitem(last=False)
        over = level - FREE_PER_MINUTE
        return min(MAX_DELAY, FIRST_DELAY * 2 ** (over - 1)) if over > 0 else 0.0


def _network(client: str | None) -> str:
    """Network that one guesser controls: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(client or "")
    except ValueError:
        return (client or "")[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()
