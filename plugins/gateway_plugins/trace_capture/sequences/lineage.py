"""Finds the earlier token sequence of a session that a prompt continues.

A sequence is the prompt and the completion of one choice, as bytes: its token ids as int32, little
endian. All lengths here are in bytes, so they are multiples of four.
"""

import hashlib
from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple, Self

from gateway_plugins.trace_capture import codec

Key = tuple[int, int]
"""Number of the trace, and position of the choice in it."""

DIGEST_SIZE = 12
"""Bytes of a digest: 8 hash the whole sequence, 4 hash its prefix up to its rung."""


class Relation(NamedTuple):
    """The prefixes that a prompt shares with earlier sequences; keys are None if it shares none.

    `parent` is the longest sequence that is wholly a prefix of the prompt, `extends` its length.
    `nearest` shares the longest prefix, `common` bytes; of several on a line, it is the shortest.
    With `common > extends`, the prompt follows `nearest` beyond `parent` and then diverges.
    """

    parent: Key | None
    extends: int
    nearest: Key | None
    common: int


class _State(NamedTuple):
    """A hash in progress: the number of bytes hashed, and the digest at the last rung."""

    hasher: hashlib.blake2b
    hashed: int
    rung: bytes

    @classmethod
    def empty(cls) -> Self:
        hasher = hashlib.blake2b(digest_size=8)
        return cls(hasher, 0, hasher.digest()[:4])


class _Line:
    """A sequence kept whole, and all known sequences that are prefixes of it, shortest first."""

    __slots__ = ("data", "ends", "keys", "state")

    def __init__(self, data: bytes, ends: list[int], keys: list[Key], state: _State) -> None:
        self.data = data
        self.ends = ends
        self.keys = keys
        self.state = state

    def insert(self, end: int, key: Key) -> None:
        place = bisect_right(self.ends, end)
        self.ends.insert(place, end)
        self.keys.insert(place, key)


class Lineage:
    """The sequences of one session. For use in one thread.

    The latest `recent` sequences that no other one continues are kept whole, fewer if they exceed
    `max_bytes` together, but at least one. The others are kept as digests: a prompt that extends
    one of them is still matched with it, but the point of a divergence from it is not found.
    """

    def __init__(self, recent: int = 32, max_bytes: int = 1 << 62) -> None:
        self._recent = max(recent, 1)
        self._max_bytes = max_bytes
        self._lines: list[_Line] = []
        self._digests: dict[tuple[int, bytes], dict[int, dict[bytes, Key]]] = {}
        self._longest_digest = 0
        self._all_whole = True

    @property
    def kept(self) -> int:
        """Number of bytes of sequences held in memory."""
        return sum(len(line.data) for line in self._lines)

    def add(self, key: Key, sequence: bytes) -> bytes:
        """Add a sequence and return its digest. If sequences are equal, the latest key is used."""
        line, common = self._nearest(sequence)
        state = _hash(sequence, line.state if line and common == len(line.data) else None)
        digest = _digest(state)
        self._index(key, len(sequence), digest)
        if line is not None and common == len(sequence) < len(line.data):
            self._add_inside(key, sequence)
        elif sequence:
            self._add_line(key, sequence, line, common, state)
        return digest

    def add_digest(self, key: Key, length: int, digest: bytes) -> None:
        """Add a sequence of `length` bytes by its digest alone."""
        self._all_whole = False
        self._index(key, length, digest)

    def relation(self, prompt: bytes) -> Relation:
        """Return which sequence a prompt extends, and with which it shares the longest prefix."""
        line, common = self._nearest(prompt)
        if line is None:
            key, extends = self._by_digest(prompt, 0, None)
            return Relation(key, extends, key, extends)
        after = bisect_right(line.ends, common)
        parent = line.keys[after - 1] if after else None
        extends = line.ends[after - 1] if after else 0
        nearest = line.keys[after - 1 if extends == common else after]
        if self._longest_digest > extends:
            state = line.state if common == len(line.data) else None
            key, length = self._by_digest(prompt, extends, state)
            parent, extends = (key, length) if key is not None else (parent, extends)
        if extends > common:
            return Relation(parent, extends, parent, extends)
        return Relation(parent, extends, nearest, common)

    def _nearest(self, prompt: bytes) -> tuple[_Line | None, int]:
        """Return the line with the longest common prefix, the latest of several, and its length."""
        best, common = None, 0
        for line in reversed(self._lines):
            # A line with a longer common prefix also has the next token in common.
            if line.data[common : common + 4] == prompt[common : common + 4]:
                shared = common_prefix(line.data, prompt)
                if shared > common:
                    best, common = line, shared
                if common == len(prompt):
                    break
        return best, common

    def _by_digest(self, prompt: bytes, above: int, state: _State | None) -> tuple[Key | None, int]:
        """Return the longest sequence of more than `above` bytes that is a prefix of `prompt`."""
        if self._all_whole:
            return None, 0
        found, longest = None, 0
        hasher, hashed, mark = _copy(state)
        view = memoryview(prompt)
        for rung in _LADDER[bisect_right(_LADDER, above) - 1 : bisect_right(_LADDER, len(prompt))]:
            if rung >= hashed:
                hasher.update(view[hashed:rung])
                hashed, mark = rung, hasher.digest()[:4]
            bucket = self._digests.get((rung, mark), {})
            for length in sorted(n for n in bucket if above < n <= len(prompt)):
                hasher.update(view[hashed:length])
                hashed = length
                key = bucket[length].get(hasher.digest())
                found, longest = (key, length) if key is not None else (found, longest)
        return found, longest

    def _index(self, key: Key, length: int, digest: bytes) -> None:
        if not length:
            return
        rung = _LADDER[bisect_right(_LADDER, length) - 1]
        bucket = self._digests.setdefault((rung, digest[8:]), {})
        bucket.setdefault(length, {})[digest[:8]] = key
        self._longest_digest = max(self._longest_digest, length)

    def _add_inside(self, key: Key, sequence: bytes) -> None:
        for line in self._lines:
            if line.data.startswith(sequence):
                line.insert(len(sequence), key)

    def _add_line(
        self, key: Key, sequence: bytes, line: _Line | None, common: int, state: _State
    ) -> None:
        if line is not None and common == len(line.data):
            self._lines.remove(line)
            line.data, line.state = sequence, state
        else:
            shared = bisect_right(line.ends, common) if line else 0
            ends, keys = (line.ends[:shared], line.keys[:shared]) if line else ([], [])
            line = _Line(sequence, ends, keys, state)
        line.insert(len(sequence), key)
        self._lines.append(line)
        while len(self._lines) > 1 and (
            len(self._lines) > self._recent or self.kept > self._max_bytes
        ):
            del self._lines[0]
            self._all_whole = False


def common_prefix(one: bytes, other: bytes) -> int:
    """Length in bytes of the common prefix of two sequences, in whole tokens."""
    return codec.common_prefix(one, other) // 4 * 4


def _hash(sequence: bytes, begun: _State | None) -> _State:
    hasher, hashed, mark = _copy(begun)
    rung = _LADDER[bisect_right(_LADDER, len(sequence)) - 1]
    view = memoryview(sequence)
    # If the rung was passed already, `mark` is its digest.
    if rung > hashed:
        hasher.update(view[hashed:rung])
        hashed, mark = rung, hasher.digest()[:4]
    hasher.update(view[hashed:])
    return _State(hasher, len(sequence), mark)


def _copy(state: _State | None) -> _State:
    if state is None:
        return _State.empty()
    return _State(state.hasher.copy(), state.hashed, state.rung)


def _digest(state: _State) -> bytes:
    return state.hasher.digest() + state.rung


def _ladder() -> tuple[int, ...]:
    """Return lengths in bytes, each a quarter longer than the one before.

    A sequence's rung is the longest of these lengths that does not exceed its own. A prompt can
    begin only with a sequence whose digest at the rung equals the prompt's, so only few of
    thousands of lengths have to be hashed.
    """
    rungs = [0, 16]
    while rungs[-1] < 2**28:
        rungs.append(rungs[-1] * 5 // 4)
    assert all(low < high for low, high in pairwise(rungs))
    return tuple(rung * 4 for rung in rungs)


_LADDER = _ladder()
