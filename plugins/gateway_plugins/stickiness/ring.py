"""Consistent hashing: each worker has many points on a ring, a key belongs to the next one.

After Karger et al., "Consistent Hashing and Random Trees" (1997): when a worker comes or goes, only
keys that it gets or had move. Points and keys are BLAKE2 of text, so that every process and every
replica has the same ring without asking another.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from itertools import chain

POINTS = 512
"""Points of a worker of weight 1. A worker's share of the keys then varies by some 1 in sqrt(512),
4.4%, around its weight's."""

MOST_POINTS = 1 << 18
"""Points of one ring. Where the weights ask for more, all workers have half of theirs, or a
quarter, and so on: larger rings are slower to make, and hardly more even."""

KEPT_POINTS = 1 << 21
"""Points of all rings that are kept, 16 MiB of them."""

KEPT_WORKERS = 1024
"""Workers whose points are kept."""

MOST_PARTS = 1 << 12
"""Parts of a ring whose beginnings are known."""

OWNER = (1 << 16) - 1
"""The bits of a point that say whose it is: the place among the workers sorted by name."""

PointsOf = Callable[[str, int], Iterable[int]]

Shares = tuple[tuple[str, float], ...]
"""Workers by name and weight, sorted."""


def key_point(kind: str, value: str) -> int:
    """Where on the ring a key lies, 0 to 2^64 - 1; keys of two kinds have nothing in common."""
    text = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def points_of(name: str, count: int) -> "array[int]":
    """The first `count` points of that worker: a larger weight only adds some."""
    digests = (
        blake2b(b"%d\0%b" % (block, name.encode("utf-8", "surrogatepass"))).digest()
        for block in range((count + 7) // 8)
    )
    found = [point for digest in digests for point in struct.unpack("<8Q", digest)]
    return array("Q", found[:count])


def counts_of(shares: Shares) -> list[int]:
    """How many points each worker has."""
    scale: float = POINTS
    while sum(weight for _, weight in shares) * scale > MOST_POINTS:
        scale /= 2
    return [max(1, round(weight * scale)) for _, weight in shares]


class Ring:
    """The points of some workers, at least one; `names` are theirs, 65,536 at most."""

    def __init__(self, shares: Shares, points_of: PointsOf = points_of) -> None:
        shares = shares[: OWNER + 1]
        self.names = [name for name, _ in shares]
        found = [
            point & ~OWNER | owner
            for owner, (name, count) in enumerate(zip(self.names, counts_of(shares), strict=True))
            for point in points_of(name, count)
        ]
        found.sort()
        self._points = array("Q", found)
        # With a table of where its equal parts begin, a key is found as fast on a large ring.
        parts = min(MOST_PARTS, 1 << len(found).bit_length())
        self._bits = 65 - parts.bit_length()
        starts = (bisect_left(found, part << self._bits) for part in range(parts + 1))
        self._starts = array("I", starts)

    def __len__(self) -> int:
        return len(self._points)

    def first(self, point: int) -> int:
        """The place among `names` of the worker that a key belongs to."""
        place = self._place(point)
        return self._points[place if place < len(self._points) else 0] & OWNER

    def walk(self, point: int) -> Iterator[int]:
        """The places of all workers, each once, in the order in which they stand in for it."""
        points, seen = self._points, set[int]()
        start = self._place(point)
        for place in chain(range(start, len(points)), range(start)):
            owner = points[place] & OWNER
            if owner not in seen:
                seen.add(owner)
                yield owner
                if len(seen) == len(self.names):
                    return

    def _place(self, point: int) -> int:
        part = point >> self._bits
        return bisect_left(self._points, point, self._starts[part], self._starts[part + 1])


class Rings:
    """Makes rings, and keeps those that were last asked for: a change may be taken back."""

    def __init__(self, kept_points: int = KEPT_POINTS) -> None:
        self._most = kept_points
        self._kept: dict[Shares, Ring] = {}
        self._points_of = lru_cache(maxsize=KEPT_WORKERS)(points_of)

    def of(self, shares: Shares) -> Ring:
        ring = self._kept.pop(shares, None) or Ring(shares, self._points_of)
        self._kept[shares] = ring
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most:
            del self._kept[next(iter(self._kept))]
        return ring
