"""Which workers have been sent which beginnings of prompts: a tree of blocks for each worker.

A node is the hash of a block and of all blocks before it, so a path from the root is a beginning of
a prompt, and the set of the nodes is the tree. Each worker's tree is as large as its cache may be,
and drops what was used longest ago, as engines do: of one path the last block before the first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence


class PrefixTree:
    """The nodes of each worker, by its id; at most `most` of each worker, at least 1."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._nodes: dict[str, OrderedDict[int, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._nodes.values()))

    def size(self, worker: str) -> int:
        """Return how many nodes the worker has."""
        return len(self._nodes.get(worker, ()))

    def add(self, worker: str, path: Sequence[int]) -> None:
        """Note that the worker gets a prompt with this path; if that is too long, its beginning."""
        nodes = self._nodes.setdefault(worker, OrderedDict())
        for node in reversed(path[: self.most]):
            nodes[node] = None
            nodes.move_to_end(node)
        while len(nodes) > self.most:
            nodes.popitem(last=False)

    def matches(self, workers: Iterable[str], path: Sequence[int]) -> Mapping[str, int]:
        """Return how many blocks of the path each worker has, from its beginning on."""
        found = dict.fromkeys(workers, 0)
        there = {name: nodes for name in found if (nodes := self._nodes.get(name))}
        for depth, node in enumerate(path, start=1):
            there = {name: nodes for name, nodes in there.items() if node in nodes}
            if not there:
                break
            found.update(dict.fromkeys(there, depth))
        return found

    def keep(self, workers: Iterable[str]) -> None:
        """Forget all other workers."""
        self._nodes = {name: self._nodes[name] for name in workers if name in self._nodes}

    def forget(self, worker: str) -> None:
        """Forget what a worker was sent: its cache is empty."""
        self._nodes.pop(worker, None)
