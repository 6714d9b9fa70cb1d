"""Which beginnings of prompts the engine has kept: it counts them, and saves no work."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

BLOCK = 16
"""Tokens of one block; parts of blocks are not kept."""

_MOST_BLOCKS = 65536


class PrefixCache:
    """The digests of blocks, each with all before it; the blocks used longest ago are dropped."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def use(self, ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt are kept, and keep its blocks from now on.

        As in the engine the last token is always computed anew.
        """
        kept, known = 0, True
        for block in _digests(ids):
            known = known and block in self._blocks
            kept += BLOCK * known
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > _MOST_BLOCKS:
            self._blocks.popitem(last=False)
        return min(kept, max(0, len(ids) - 1) // BLOCK * BLOCK)

    def clear(self) -> None:
        self._blocks.clear()


def _digests(ids: Sequence[int]) -> Iterator[bytes]:
    digest = b""
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        block = b"".join(number.to_bytes(4, "big") for number in ids[end - BLOCK : end])
        digest = blake2b(digest + block, digest_size=16).digest()
        yield digest
