"""Items in the order of their ranks, which may change while the items are kept."""

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

Rank = tuple[int, ...]

MAX_STALE = 64
"""Number of outdated entries that never cause a rebuild."""


class Ranked(Generic[T]):
    """Items with a rank each, the lowest first; all operations take O(log n), amortised.

    A heap in which an outdated entry stays until it reaches the top, as in the notes to Python's
    heapq; once most entries are outdated, the heap is rebuilt without them.
    """

    __slots__ = ("_heap", "_ranks", "_ticks")

    def __init__(self) -> None:
        self._ranks: dict[T, Rank] = {}
        self._heap: list[tuple[Rank, int, T]] = []
        self._ticks = count()

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, item: T, rank: Rank) -> None:
        """Set the rank of an item."""
        if self._ranks.get(item) == rank:
            return
        self._ranks[item] = rank
        if len(self._heap) < 2 * len(self._ranks) + MAX_STALE:
            heappush(self._heap, (rank, next(self._ticks), item))
        else:
            self._heap = [(rank, next(self._ticks), item) for item, rank in self._ranks.items()]
            heapify(self._heap)

    def drop(self, item: T) -> None:
        """Remove an item; do nothing if it is not here."""
        self._ranks.pop(item, None)
        if not self._ranks:
            self._heap.clear()

    def first(self) -> tuple[Rank, T] | None:
        """Return the lowest rank and its item; None if there are no items."""
        while self._heap:
            rank, _, item = self._heap[0]
            if self._ranks.get(item) == rank:
                return rank, item
            heappop(self._heap)
        return None
