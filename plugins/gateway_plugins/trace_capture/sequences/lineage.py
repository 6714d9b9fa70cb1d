"""Finds the earlier token sequence of a session that a prompt continues.

A sequence is the prompt and the completion of one choice, as bytes: its token ids as int32, little
endian. All lengths here are in bytes, so they are multiples of four.
"""

import hashlib
from bisect import bisect_right
from itertools import pairwise

import msgspec

from gateway_plugins.trace_capture import codec

Key = tuple[int, int]
"""Number of the trace, and position of the choice in it."""

DIGEST_SIZE = 12
"""Bytes of a digest: 8 hash the whole sequence, 4 hash its prefix up to its rung."""


class Relation(msgspec.Struct, frozen=True):
    """The prefixes that a prompt shares with earlier sequences; keys are None if it shares none.

    `parent` is the longest sequence that is wholly a prefix of the prompt, `extends` its length.
    `nearest` shares the longest prefix, `common` bytes; of several on a line, it is the shortest.
    With `common > extends`, the prompt follows `nearest` beyond `parent` and then diverges.
    """

    parent: Key | None
    extends: int
    nearest: Key | None
    common: int


_NONE = Relation(None, 0, None, 0)


class _State(msgspec.Struct, frozen=True):
    """A hash in progress: the number of bytes hashed, the last rung, and the digest at it."""

    hasher: hashlib.blake2b
    hashed: int
    rung: int
    mark: bytes


_EMPTY = _State(hashlib.blake2b(digest_size=8), 0, 0, hashlib.blake2b(digest_size=8).digest()[:4])


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


class _Found(msgspec.Struct, frozen=True):
    """The result of the latest search, for the sequence that begins with the same prompt."""

    prompt: bytes
    line: _Line | None
    common: int


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
        self._found: _Found | None = None

    @property
    def kept(self) -> int:
        """Number of bytes of sequences held in memory."""
        return sum(len(line.data) for line in self._lines)

    def add(self, key: Key, sequence: bytes) -> bytes:
        """Add a sequence and return its digest. If sequences are equal, the latest key is used."""
        line, common = self._nearest(sequence)
        state = _hash(sequence, line.state if line and common == len(line.data) else _EMPTY)
        digest = state.hasher.digest() + state.mark
        self._index(key, len(sequence), digest, state.rung)
        if line is not None and common == len(sequence) < len(line.data):
            self._add_inside(key, sequence)
        elif sequence:
            self._add_line(key, sequence, line, common, state)
        self._found = None
        return digest

    def add_digest(self, key: Key, length: int, digest: bytes) -> None:
        """Add a sequence of `length` bytes by its digest alone."""
        self._all_whole = False
        self._index(key, length, digest, _LADDER[bisect_right(_LADDER, length) - 1])

    def relation(self, prompt: bytes) -> Relation:
        """Return which sequence a prompt extends, and with which it shares the longest prefix."""
        line, common = self._nearest(prompt)
        # What follows the prompt makes no difference if the line differs before that.
        self._found = _Found(prompt, line, common) if common < len(prompt) else None
        if line is None:
            if self._all_whole:
                return _NONE
            key, extends = self._by_digest(prompt, 0, _EMPTY)
            return Relation(key, extends, key, extends)
        after = bisect_right(line.ends, common)
        parent = line.keys[after - 1] if after else None
        extends = line.ends[after - 1] if after else 0
        nearest = line.keys[after - 1 if extends == common else after]
        if self._longest_digest > extends:
            state = line.state if common == len(line.data) else _EMPTY
            key, length = self._by_digest(prompt, extends, state)
            parent, extends = (key, length) if key is not None else (parent, extends)
        if extends > common:
            return Relation(parent, extends, parent, extends)
        return Relation(parent, extends, nearest, common)

    def _nearest(self, prompt: bytes) -> tuple[_Line | None, int]:
        """Return the line with the longest common prefix, the latest of several, and its length."""
        if not self._lines:
            return None, 0
        found = self._found
        if (
            found is not None
            and found.common < len(found.prompt)
            and prompt.startswith(found.prompt)
        ):
            return found.line, found.common  # what follows the prompt makes no difference
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

    def _by_digest(self, prompt: bytes, above: int, state: _State) -> tuple[Key | None, int]:
        """Return the longest sequence of more than `above` bytes that is a prefix of `prompt`."""
        if self._all_whole:
            return None, 0
        found, longest = None, 0
        hasher, hashed, mark = state.hasher.copy(), state.hashed, state.mark
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

    def _index(self, key: Key, length: int, digest: bytes, rung: int) -> None:
        if not length:
            return
        place = rung, digest[8:]
        if place not in self._digests:
            self._digests[place] = {}
        bucket = self._digests[place]
        if length not in bucket:
            bucket[length] = {}
        bucket[length][digest[:8]] = key
        if length > self._longest_digest:
            self._longest_digest = length

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
            line.insert(len(sequence), key)
        elif line is not None:
            shared = bisect_right(line.ends, common)
            line = _Line(sequence, line.ends[:shared], line.keys[:shared], state)
            line.insert(len(sequence), key)
        else:
            line = _Line(sequence, [len(sequence)], [key], state)
        self._lines.append(line)
        while len(self._lines) > 1 and (
            len(self._lines) > self._recent or self.kept > self._max_bytes
        ):
            del self._lines[0]
            self._all_whole = False


def common_prefix(one: bytes, other: bytes) -> int:
    """Length in bytes of the common prefix of two sequences, in whole tokens."""
    return codec.common_prefix(one, other) // 4 * 4


def _hash(sequence: bytes, begun: _State) -> _State:
    hasher, hashed, mark = begun.hasher.copy(), begun.hashed, begun.mark
    rung = _LADDER[bisect_right(_LADDER, len(sequence)) - 1]
    view = memoryview(sequence)
    # If the rung was passed already, `mark` is its digest.
    if rung > hashed:
        hasher.update(view[hashed:rung])
        hashed, mark = rung, hasher.digest()[:4]
    hasher.update(view[hashed:])
    return _State(hasher, len(sequence), rung, mark)


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
