"""Weighted round robin: each worker's turns come in proportion to its weight.

This is stride scheduling (Waldspurger, Weihl 1995): the worker with the earliest due turn is taken,
and its next turn is due 1/weight later.
"""

import heapq
import random
from collections.abc import Container, Sequence

from gateway import Worker


class Turns:
    """The turns of some workers. Each begins at random, as other replicas take turns too."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._due = [
            (random.random() / worker.weight, place, worker) for place, worker in enumerate(workers)
        ]
        heapq.heapify(self._due)

    def take(self, members: Container[Worker]) -> Worker | None:
        """Return the one of `members` whose turn is due first; None if there is none.

        Workers that are passed over do not save up their turns.
        """
        passed = []
        taken = None
        while taken is None and self._due:
            due, place, worker = self._due[0]
            if worker in members:
                taken = worker
                heapq.heapreplace(self._due, (due + 1 / worker.weight, place, worker))
            else:
                passed.append(heapq.heappop(self._due))
        for before, place, worker in passed:
            heapq.heappush(self._due, (before if taken is None else due, place, worker))
        return taken
