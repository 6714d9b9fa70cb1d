"""The simulator's language model: a small grammar that assigns each token a probability.

It has the properties of a real model that tests rely on: the probability of a token depends on all
ids before it and on nothing else, all probabilities sum to one, and scoring a text
(`prompt_logprobs`) gives the numbers that sampling it gave.
"""

import math
from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from gateway.simulator.engine import words
from gateway.simulator.engine.tokens import CAFE_HEAD, DASH_HEAD, EOS, SIZE, id_of

# Total probability of the tokens outside the candidates: no token has probability zero.
_REMAINDER = 1e-4
_MAX_WORDS_PER_EDGE = 8


class Edge(msgspec.Struct, frozen=True):
    """Possible words in a state, their total probability weight, and the next state."""

    words: tuple[int, ...]
    leads_to: str
    weight: float = 1.0


def _spaced(text: str) -> tuple[int, ...]:
    return tuple(id_of(" " + word) for word in text.split())


_FIRST = tuple(id_of(word) for word in words.OPENERS.split())
_OPENERS = _spaced(words.OPENERS)
_DETERMINERS = _spaced(words.DETERMINERS)
_ADJECTIVES = _spaced(words.ADJECTIVES)
_NOUNS = _spaced(words.NOUNS)
_VERBS = _spaced(words.VERBS)
_ADVERBS = _spaced(words.ADVERBS)
_PREPOSITIONS = _spaced(words.PREPOSITIONS)
_CONJUNCTIONS = _spaced(words.CONJUNCTIONS)
_AND = (id_of(" and"),)
_STOP, _COMMA = (id_of("."),), (id_of(","),)
_PARAGRAPH = (id_of("\n\n"),)
_DASH_HEAD, _DASH_TAIL = (id_of(DASH_HEAD),), (id_of(b"\x94"),)
_CAFE_HEAD, _CAFE_TAIL = (id_of(CAFE_HEAD),), (id_of(b"\xa9"),)

GRAMMAR: dict[str, tuple[Edge, ...]] = {
    "start": (Edge(_FIRST, "the"),),
    "stop": (
        Edge(_OPENERS, "the", 0.62),
        Edge((EOS,), "start", 0.25),
        Edge(_PARAGRAPH, "start", 0.13),
    ),
    "the": (Edge(_ADJECTIVES, "the quiet", 0.45), Edge(_NOUNS, "subject", 0.55)),
    "the quiet": (Edge(_NOUNS, "subject"),),
    "subject": (
        Edge(_VERBS, "verb", 0.7),
        Edge(_ADVERBS, "subject needs verb", 0.15),
        Edge(_PREPOSITIONS, "subject under", 0.15),
    ),
    "subject under": (Edge(_DETERMINERS, "subject under the"),),
    "subject under the": (
        Edge(_NOUNS, "subject needs verb", 0.6),
        Edge(_ADJECTIVES, "subject under the old", 0.4),
    ),
    "subject under the old": (Edge(_NOUNS, "subject needs verb"),),
    "subject needs verb": (Edge(_VERBS, "verb"),),
    "verb": (Edge(_DETERMINERS, "verb the"),),
    "verb the": (
        Edge(_NOUNS, "object", 0.52),
        Edge(_ADJECTIVES, "verb the small", 0.4),
        Edge(_CAFE_HEAD, "caf", 0.08),
    ),
    "verb the small": (Edge(_NOUNS, "object"),),
    "caf": (Edge(_CAFE_TAIL, "object"),),
    "object": (
        Edge(_STOP, "stop", 0.4),
        Edge(_PREPOSITIONS, "near", 0.3),
        Edge(_COMMA, "comma", 0.1),
        Edge(_AND, "subject needs verb", 0.12),
        Edge(_DASH_HEAD, "dash", 0.08),
    ),
    "near": (Edge(_DETERMINERS, "near the"),),
    "near the": (Edge(_NOUNS, "tail", 0.6), Edge(_ADJECTIVES, "near the long", 0.4)),
    "near the long": (Edge(_NOUNS, "tail"),),
    "tail": (
        Edge(_STOP, "stop", 0.6),
        Edge(_COMMA, "comma", 0.2),
        Edge(_AND, "subject needs verb", 0.12),
        Edge(_DASH_HEAD, "dash", 0.08),
    ),
    "dash": (Edge(_DASH_TAIL, "comma"),),
    "comma": (Edge(_CONJUNCTIONS, "clause"),),
    "clause": (Edge(_DETERMINERS, "the"),),
}


def _moves(edges: Iterable[Edge]) -> dict[int, str]:
    return {word: edge.leads_to for edge in edges for word in edge.words}


_MOVES = {state: _moves(edges) for state, edges in GRAMMAR.items()}
# The state after a word that the grammar did not expect, as in a prompt by somebody else.
_ANYWHERE = _moves(
    (
        Edge((*_FIRST, *_OPENERS, *_DETERMINERS), "the"),
        Edge(_ADJECTIVES, "the quiet"),
        Edge(_NOUNS, "subject"),
        Edge(_VERBS, "verb"),
        Edge(_PREPOSITIONS, "near"),
        Edge(_COMMA, "comma"),
        Edge((*_STOP, id_of("!"), id_of("?")), "stop"),
        Edge((*_PARAGRAPH, id_of("\n"), EOS), "start"),
    )
)


class Distribution(msgspec.Struct, frozen=True, gc=False):
    """Natural logarithms of the next token's probabilities.

    `candidates` has the likely tokens, best first; each other token of the vocabulary has `floor`.
    """

    candidates: dict[int, float]
    floor: float

    def logprob(self, number: int) -> float:
        return self.candidates.get(number, self.floor)

    def rank(self, number: int) -> int:
        """1 for the likeliest token; tokens with the floor are ranked in the order of their ids."""
        if number in self.candidates:
            return list(self.candidates).index(number) + 1
        better = sum(other < number for other in self.candidates)
        return len(self.candidates) + number - better + 1

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the `count` likeliest tokens with their logprobs, best first."""
        best = list(self.candidates.items())[:count]
        for number in range(SIZE):
            if len(best) >= count:
                break
            if number not in self.candidates:
                best.append((number, self.floor))
        return best


def certain(number: int, confidence: float) -> Distribution:
    """Return the distribution of a forced token: `number` has the probability `confidence`."""
    floor = math.log((1 - confidence) / (SIZE - 1))
    return Distribution({number: math.log(confidence)}, floor)


class Context:
    """The tokens read so far: the place in the sentence, and a digest of every id."""

    __slots__ = ("digest", "state")

    def __init__(self, digest: bytes = b"", state: str = "start") -> None:
        self.digest = digest
        self.state = state

    def copy(self) -> "Context":
        return Context(self.digest, self.state)

    def read(self, number: int) -> None:
        """Add one id."""
        self.digest = blake2b(self.digest + number.to_bytes(4, "big"), digest_size=32).digest()
        move = _MOVES[self.state].get(number) or _ANYWHERE.get(number)
        self.state = move or "clause"

    def salt(self, weights: str) -> None:
        """Use the probabilities of other weights from now on."""
        self.digest = blake2b(self.digest + weights.encode(), digest_size=32).digest()

    def next(self) -> Distribution:
        """Return the probabilities of the next token."""
        weights: dict[int, float] = {}
        for place, edge in enumerate(GRAMMAR[self.state]):
            _weigh(weights, edge, self.digest[4 * place : 4 * place + 4] or b"\0\0\0\0")
        scale = (1 - _REMAINDER) / sum(weights.values())
        ordered = sorted(weights.items(), key=_by_weight, reverse=True)
        floor = math.log(_REMAINDER / (SIZE - len(weights)))
        return Distribution({word: math.log(weight * scale) for word, weight in ordered}, floor)


def _by_weight(item: tuple[int, float]) -> float:
    return item[1]


def _weigh(weights: dict[int, float], edge: Edge, chance: bytes) -> None:
    """Weigh some words of `edge`; the four bytes of `chance` decide which words and weights."""
    favour, steepness, where, step = chance
    share = edge.weight * (0.3 + favour / 150)
    ratio = 0.4 + steepness / 640
    count = len(edge.words)
    stride = 1 + step % max(1, count // _MAX_WORDS_PER_EDGE)
    begin = (where * 257 + favour) % count
    for place in range(min(count, _MAX_WORDS_PER_EDGE)):
        weights[edge.words[(begin + place * stride) % count]] = share
        share *= ratio
