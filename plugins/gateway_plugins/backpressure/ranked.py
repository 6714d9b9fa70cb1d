"""Things in the order of their ranks, where ranks change while they are kept."""

from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

Rank = tuple[int, ...]

SPARE = 64
"""Outdated entries that are never worth a clearing."""


class Ranked(Generic[T]):
    """Items with a rank each, the lowest first; all it does takes O(log n), amortised.

    A heap in which an entry that is outdated stays until it comes to the top, as in the notes to
    Python's heapq; once they are the most, all of them are cleared out.
    """

    __slots__ = ("_heap", "_ranks", "_ticks")

    def __init__(self) -> None:
        self._ranks: dict[T, Rank] = {}
        self._heap: list[tuple[Rank, int, T]] = []
        self._ticks = count()

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, item: T, rank: Rank) -> None:
        """From now on this is the item's rank."""
        if self._ranks.get(item) == rank:
            return
        self._ranks[item] = rank
        if len(self._heap) < 2 * len(self._ranks) + SPARE:
            heappush(self._heap, (rank, next(self._ticks), item))
        else:
            self._heap = [(rank, next(self._ticks), item) for item, rank in self._ranks.items()]
            heapify(self._heap)

    def drop(self, item: T) -> None:
        """Nothing happens where it is not here."""
        self._ranks.pop(item, None)
        if not self._ranks:
            self._heap.clear()

    def first(self) -> tuple[Rank, T] | None:
        """The item of the lowest rank, and that rank."""
        while self._heap:
            rank, _, item = self._heap[0]
            if self._ranks.get(item) == rank:
                return rank, item
            heappop(self._heap)
        return None
