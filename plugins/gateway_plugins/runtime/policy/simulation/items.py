"""The items of one model that wait, in the order in which they are claimed."""

import heapq
from collections import Counter

from gateway_plugins.runtime.policy.simulation.load import Item


class Items:
    """Higher priorities come first; each `age_step` of waiting is worth one more."""

    def __init__(self, age_step: float) -> None:
        self._age_step = age_step
        self._order = 0
        self._first: list[tuple[float, int, Item]] = []
        self._oldest: list[tuple[float, int, Item]] = []
        self._waiting: set[Item] = set()
        self._priorities: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, item: Item) -> None:
        self._order += 1
        key = item.at - item.priority * self._age_step
        heapq.heappush(self._first, (key, self._order, item))
        heapq.heappush(self._oldest, (item.at, self._order, item))
        self._waiting.add(item)
        self._priorities[item.priority] += 1

    def pop(self) -> Item:
        item = heapq.heappop(self._first)[2]
        self._waiting.discard(item)
        self._priorities[item.priority] -= 1
        return item

    @property
    def since(self) -> float | None:
        """When the oldest was submitted."""
        while self._oldest and self._oldest[0][2] not in self._waiting:
            heapq.heappop(self._oldest)
        return self._oldest[0][0] if self._oldest else None

    @property
    def priority(self) -> int:
        return max((one for one, count in self._priorities.items() if count), default=0)
