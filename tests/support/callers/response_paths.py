"""The ways of an answer through the gateway: untouched, read by an observer, or rewritten."""

from collections import Counter
from collections.abc import Mapping, Sequence

from gateway import Call, Delta, hookimpl


class Deltas:
    """Has every answer read. `seen` counts the reads and the deltas, of all calls."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    @hookimpl
    def observe(self, call: Call) -> "_Reading":
        return _Reading(self.seen)


class _Reading:
    def __init__(self, seen: Counter[str]) -> None:
        self._seen = seen

    def delta(self, delta: Delta) -> None:
        self._seen["delta"] += 1

    def data(self, chunk: bytes) -> None:
        self._seen["data"] += 1


class Injecting(Deltas):
    """Asks for all there is, and has it taken out again."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject("token_ids", "logprobs", "usage")


PLUGINS: Mapping[str, Sequence[type]] = {"untouched": [], "read": [Deltas], "stripped": [Injecting]}
