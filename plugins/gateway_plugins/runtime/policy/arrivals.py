"""How often calls come."""

import math


class Arrivals:
    """Calls a second, of late: each counts less as it ages, by the factor e in `memory` seconds."""

    def __init__(self, memory: float = 1_800.0) -> None:
        self._memory = memory
        self._weight = 0.0
        self._at = -math.inf

    def count(self, now: float) -> None:
        """A call has come."""
        self._weight = self._weight_at(now) + 1
        self._at = max(now, self._at)

    def rate(self, now: float) -> float:
        """Calls a second."""
        return self._weight_at(now) / self._memory

    def _weight_at(self, now: float) -> float:
        return self._weight * math.exp(-max(0.0, now - self._at) / self._memory)
