"""The calls in flight, and when the latest ended, of all processes."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from gateway import Host, Topic
from gateway_plugins.dashboard.times import Times

IN_FLIGHT = Topic("dashboard", "calls")
"""Name under which a process asks the others for their calls."""


class Calls(msgspec.Struct, array_like=True):
    """Calls in flight by source, and Unix times as Times has them, None: there was none."""

    sources: dict[str, int]
    requested: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    realtime: float | None = None


class AllCalls:
    """The calls of one gateway. `join` makes this process answer the others."""

    def __init__(self, gateway: Host, times: Times) -> None:
        self._gateway = gateway
        self._times = times

    def join(self) -> None:
        """Answer the other processes."""
        self._gateway.peers.handle(IN_FLIGHT, self._tell)

    async def now(self) -> Calls:
        """Return the calls of all processes."""
        said = await self._gateway.peers.request(IN_FLIGHT)
        return merged([self._own(), *(msgspec.msgpack.decode(one, type=Calls) for one in said)])

    def _own(self) -> Calls:
        times = self._times
        sources: Counter[str] = Counter(call.source for call in self._gateway.calls_in_flight)
        return Calls(sources, times.requested, times.succeeded, times.failed, times.realtime)

    async def _tell(self, _: bytes) -> bytes:
        return msgspec.msgpack.encode(self._own())


def merged(several: Iterable[Calls]) -> Calls:
    """Add up the calls of several processes; the latest times are those of all."""
    sources: Counter[str] = Counter()
    found = Calls(sources)
    for one in several:
        sources.update(one.sources)
        found.requested = _later(found.requested, one.requested)
        found.succeeded = _later(found.succeeded, one.succeeded)
        found.failed = _later(found.failed, one.failed)
        found.realtime = _later(found.realtime, one.realtime)
    return found


def _later(one: float | None, other: float | None) -> float | None:
    return max((at for at in (one, other) if at is not None), default=None)
