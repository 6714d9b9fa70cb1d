"""Thoughts: how the model writes them, and how the server tells them from the answer.

The format is that of DeepSeek and Qwen: `<think>`, the thoughts, `</think>`.
"""

from collections.abc import Iterable
from random import Random

from gateway.simulator.engine import words
from gateway.simulator.engine.tokens import EOS, id_of, overlap

OPEN = "<think>"
CLOSE = "</think>"
OPEN_ID, CLOSE_ID = id_of(OPEN), id_of(CLOSE)

_NOUNS = words.NOUNS.split()
_ADJECTIVES = words.ADJECTIVES.split()


def thought(chance: Random) -> str:
    """Return thoughts as the model writes them."""
    noun, adjective = chance.choice(_NOUNS), chance.choice(_ADJECTIVES)
    return f"{OPEN}\nThe {noun} is {adjective}, so I know what to say.\n{CLOSE}\n\n"


class ReasoningParser:
    """Splits text as it comes. All before `</think>` are thoughts, opened or not.

    `tokens` is the number of tokens of thoughts so far, without the marks around them.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._held = ""
        self._thinks = True
        self._counts = True

    def count(self, ids: Iterable[int]) -> None:
        for number in ids:
            self._counts = self._counts and number != CLOSE_ID
            self.tokens += self._counts and number not in (OPEN_ID, EOS)

    def feed(self, text: str, last: bool = False) -> tuple[str, str]:
        """Return the thoughts and the answer that `text` adds; `last` releases what is held."""
        if not self._thinks:
            return "", text
        self._held += text
        thoughts, closed, rest = self._held.partition(CLOSE)
        self._thinks = not closed
        keep = 0 if closed or last else overlap(thoughts, CLOSE)
        self._held = thoughts[len(thoughts) - keep :]
        return thoughts[: len(thoughts) - keep].replace(OPEN, ""), rest
