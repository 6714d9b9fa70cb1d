"""Consistent hashing: each worker has many points on a ring, a key belongs to the next one.

After Karger et al., "Consistent Hashing and Random Trees" (1997): when a worker comes or goes, only
the keys that it gains or loses move. Points and keys are BLAKE2 hashes of text, so that every
process and every replica computes the same ring by itself.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from itertools import chain

POINTS = 512
"""Points of a worker of weight 1. A worker's share of the keys then varies by about 1 / sqrt(512),
4.4%, around its weight's share."""

MAX_POINTS = 1 << 18
"""Maximum points of one ring. If the weights need more, all workers have half of their points, or a
quarter, and so on: larger rings are slower to make, and hardly more even."""

MAX_CACHED_POINTS = 1 << 21
"""Maximum points of all cached rings together, 16 MiB."""

MAX_CACHED_WORKERS = 1024
"""Maximum number of workers whose points are cached."""

MAX_CACHED_KEYS = 8192
"""Maximum number of keys whose places are cached."""

MAX_CACHED_LENGTH = 256
"""Maximum length of a key that is cached, in characters."""

MAX_PARTS = 1 << 12
"""Maximum number of equal parts of a ring whose starts are in its table."""

OWNER_MASK = (1 << 16) - 1
"""Mask of the bits of a point that name its worker: the index in the sorted names."""

PointsOf = Callable[[str, int], Iterable[int]]

Shares = tuple[tuple[str, float], ...]
"""Workers by name and weight, sorted."""


def key_point(kind: str, value: str) -> int:
    """Place of a key on the ring, 0 to 2^64 - 1; keys of different kinds are unrelated."""
    text = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class KeyPoints:
    """Places of keys on the ring; those of the latest keys are cached."""

    def __init__(self) -> None:
        self._latest = lru_cache(maxsize=MAX_CACHED_KEYS)(key_point)

    def of(self, kind: str, value: str) -> int:
        """Return the `key_point` of a key."""
        find = self._latest if len(value) <= MAX_CACHED_LENGTH else key_point
        return find(kind, value)


def points_of(name: str, count: int) -> "array[int]":
    """Return the first `count` points of a worker: a larger weight only adds points."""
    digests = (
        blake2b(b"%d\0%b" % (block, name.encode("utf-8", "surrogatepass"))).digest()
        for block in range((count + 7) // 8)
    )
    found = [point for digest in digests for point in struct.unpack("<8Q", digest)]
    return array("Q", found[:count])


def counts_of(shares: Shares) -> list[int]:
    """Return the number of points of each worker."""
    scale: float = POINTS
    while sum(weight for _, weight in shares) * scale > MAX_POINTS:
        scale /= 2
    return [max(1, round(weight * scale)) for _, weight in shares]


class Ring:
    """The points of some workers, at least one; `names` are the workers', at most 65,536."""

    def __init__(self, shares: Shares, points_of: PointsOf = points_of) -> None:
        shares = shares[: OWNER_MASK + 1]
        self.names = [name for name, _ in shares]
        found = [
            point & ~OWNER_MASK | owner
            for owner, (name, count) in enumerate(zip(self.names, counts_of(shares), strict=True))
            for point in points_of(name, count)
        ]
        found.sort()
        self._count = len(found)
        # A key after the last point belongs to the first one, which is there once more.
        self._points = array("Q", [*found, found[0]])
        # A table of the starts of equal parts makes lookups on a large ring as fast.
        parts = min(MAX_PARTS, 1 << len(found).bit_length())
        self._bits = 65 - parts.bit_length()
        starts = (bisect_left(found, part << self._bits) for part in range(parts + 1))
        self._starts = array("I", starts)

    def __len__(self) -> int:
        return self._count

    def first(self, point: int) -> int:
        """Index in `names` of the worker that a key belongs to."""
        points, starts, part = self._points, self._starts, point >> self._bits
        return points[bisect_left(points, point, starts[part], starts[part + 1])] & OWNER_MASK

    def walk(self, point: int) -> Iterator[int]:
        """Indexes of all workers, each once: the key's worker, then its stand-ins in order."""
        points, seen = self._points, set[int]()
        part = point >> self._bits
        start = bisect_left(points, point, self._starts[part], self._starts[part + 1])
        for place in chain(range(start, self._count), range(start)):
            owner = points[place] & OWNER_MASK
            if owner not in seen:
                seen.add(owner)
                yield owner
                if len(seen) == len(self.names):
                    return


class Rings:
    """Makes rings, and caches the latest ones, as a change may be reverted."""

    def __init__(self, kept_points: int = MAX_CACHED_POINTS) -> None:
        self._most = kept_points
        self._kept: dict[Shares, Ring] = {}
        self._points_of = lru_cache(maxsize=MAX_CACHED_WORKERS)(points_of)

    def of(self, shares: Shares) -> Ring:
        ring = self._kept.pop(shares, None) or Ring(shares, self._points_of)
        self._kept[shares] = ring
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most:
            del self._kept[next(iter(self._kept))]
        return ring
