"""Items in the order of their ranks, which may change while the items are kept."""

from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, Protocol, TypeVar

Rank = tuple[int, ...]

MAX_STALE = 64
"""Number of outdated entries that never cause a rebuild."""


class Item(Protocol):
    """`listed` is the rank by which the item stands in a heap, None if it does not."""

    listed: Rank | None

    def rank(self) -> Rank:
        """The present rank."""


T = TypeVar("T", bound=Item)


class Ranked(Generic[T]):
    """Items that offer themselves, the lowest rank first; all operations take O(log n), amortised.

    A heap in which no item stands behind its rank: a rank that has fallen must be offered, and one
    that has risen is noticed at the top. An outdated entry stays until it reaches the top; once
    most entries are outdated, the heap is rebuilt without them. An item that is alone is ranked
    anew only when another one comes.
    """

    __slots__ = ("_count", "_heap", "_ticks")

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, int, T]] = []
        self._count = self._ticks = 0

    def __len__(self) -> int:
        return self._count

    def offer(self, item: T) -> None:
        """Add an item, or note that its rank may have fallen."""
        listed = item.listed
        if len(self._heap) == 1:
            if listed is not None:
                return
            self._rank_alone()
        rank = item.rank()
        if listed is None:
            self._count += 1
        elif listed <= rank:
            return
        item.listed = rank
        self._ticks += 1
        heappush(self._heap, (rank, self._ticks, item))
        if len(self._heap) > 2 * self._count + MAX_STALE:
            self._heap = [entry for entry in self._heap if entry[0] is entry[2].listed]
            heapify(self._heap)

    def drop(self, item: T) -> None:
        """Remove an item; do nothing if it is not here."""
        if item.listed is not None:
            item.listed = None
            self._count -= 1
            if not self._count:
                self._heap.clear()

    def first(self) -> T | None:
        """Return the item of the lowest rank; None if there is none."""
        heap = self._heap
        if len(heap) == 1:
            return heap[0][2]
        while heap:
            listed, _, item = heap[0]
            if listed is not item.listed:
                heappop(heap)
                continue
            rank = item.rank()
            if rank == listed:
                return item
            item.listed = rank
            self._ticks += 1
            heapreplace(heap, (rank, self._ticks, item))
            if heap[0][0] is rank:
                return item
        return None

    def _rank_alone(self) -> None:
        """List the only item by its present rank."""
        _, tick, item = self._heap[0]
        item.listed = rank = item.rank()
        self._heap[0] = rank, tick, item
