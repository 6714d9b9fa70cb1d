"""Which worker gets a prompt: the one with most of it, unless it has too much to do."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway import Worker
from gateway_plugins.prefix_tree.tree import PrefixTree


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How large the tree is, and when load counts more than a prefix.

    A block has `block_bytes` bytes of a request's text; each worker has at most
    `max_blocks_per_worker`. A worker is chosen for its prefix if it has at least the share
    `min_match` of the prompt's blocks. It is not if it has more than `balance_abs` attempts in
    flight more than the least loaded one, and more than `balance_rel` times as many.
    """

    block_bytes: Annotated[int, Meta(ge=64, le=65_536)] = 1_024
    max_blocks_per_worker: Annotated[int, Meta(gt=0)] = 4_096
    min_match: Annotated[float, Meta(ge=0, le=1)] = 0.3
    balance_abs: Annotated[int, Meta(ge=0)] = 16
    balance_rel: Annotated[float, Meta(ge=1)] = 1.5


class Counts(msgspec.Struct):
    """Choices by their reason: the longest prefix, too short a prefix, or too much load there."""

    prefix: int = 0
    short: int = 0
    balance: int = 0


class Choice:
    """The tree and the choice by it."""

    def __init__(self, options: Options) -> None:
        self.counts = Counts()
        self.tree = PrefixTree(options.max_blocks_per_worker)
        self._turn = 0
        self.set_options(options)

    def set_options(self, options: Options) -> None:
        """Replace the options; what the tree has stays, up to its new size."""
        self.options = options
        self.tree.most = options.max_blocks_per_worker

    def pick(self, workers: Sequence[Worker], path: Sequence[int]) -> Worker:
        """Return one of `workers` (not empty), and note that it gets the prompt of this path."""
        self._turn = start = (self._turn + 1) % len(workers)
        rotated = [*workers[start:], *workers[:start]]
        least = min(rotated, key=_load)
        chosen = self._by_prefix(rotated, path, least) if path else least
        self.tree.add(chosen.id, path)
        return chosen

    def _by_prefix(self, workers: Sequence[Worker], path: Sequence[int], least: Worker) -> Worker:
        matches = self.tree.matches((worker.id for worker in workers), path)
        able = [worker for worker in workers if self._has_room(worker, least)]
        chosen = min(able, key=lambda worker: (-matches[worker.id], worker.load))
        if matches[chosen.id] < max(1.0, self.options.min_match * len(path)):
            self.counts.short += 1
            return least
        if matches[chosen.id] < max(matches.values()):
            self.counts.balance += 1
        else:
            self.counts.prefix += 1
        return chosen

    def _has_room(self, worker: Worker, least: Worker) -> bool:
        """Whether a worker is not much more loaded than the least loaded one, which always is."""
        load, lowest = worker.load, least.load
        options = self.options
        return load - lowest <= options.balance_abs or load <= options.balance_rel * lowest


def _load(worker: Worker) -> float:
    return worker.load
