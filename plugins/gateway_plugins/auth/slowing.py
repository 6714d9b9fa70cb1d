"""Failed attempts, counted by address: who goes on guessing waits longer for each answer.

Each address has a bucket that leaks, as in the leaky bucket of traffic shaping: every failure adds
one to its level, which falls by FREE in a minute.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict

from gateway import TooManyRequests

FREE = 10
"""Failures in a minute that nobody waits for."""

FIRST, LONGEST = 0.0625, 2.0
"""Seconds that the next one waits; each after it twice as long, up to the longest."""

FULL = FREE + 10
"""The highest level, so that even the worst is forgotten within two minutes."""

ADDRESSES = 10_000
"""That are remembered: those whose latest failure is the latest."""

WAITING = 100
"""Answers that wait at a time."""


class Slowing:
    """`waiting` counts the answers that wait now."""

    def __init__(self) -> None:
        self.waiting = 0
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def failed(self, client: str | None) -> None:
        """Note a failed attempt from this address, and wait for as long as its answer has to.

        Raises TooManyRequests where too many wait already.
        """
        wait = self.wait_of(_network(client), time.monotonic())
        if wait <= 0:
            return
        if self.waiting >= WAITING:
            raise TooManyRequests(
                "too many attempts without a valid API key",
                code="too_many_failed_attempts",
                headers=((b"retry-after", b"%d" % max(1, LONGEST)),),
            )
        self.waiting += 1
        try:
            await asyncio.sleep(wait)
        finally:
            self.waiting -= 1

    def wait_of(self, network: str, now: float) -> float:
        """Seconds, for one more failure at `now`, in seconds of any clock that only goes on."""
        level, at = self._levels.pop(network, (0.0, now))
        level = min(FULL, max(0.0, level - (now - at) * FREE / 60) + 1)
        self._levels[network] = level, now
        if len(self._levels) > ADDRESSES:
            self._levels.popitem(last=False)
        over = level - FREE
        return min(LONGEST, FIRST * 2 ** (over - 1)) if over > 0 else 0.0


def _network(client: str | None) -> str:
    """What one guesser has to himself: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ipaddress.ip_address(client or "")
    except ValueError:
        return (client or "")[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex()
