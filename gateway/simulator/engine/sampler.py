"""Samples one token of a distribution: temperature, top-k, top-p and excluded tokens."""

import math
from collections.abc import Container, Sequence
from random import Random

import msgspec

from gateway.simulator.engine.model import Distribution
from gateway.simulator.engine.tokens import SIZE

# The engine is greedy below this temperature.
GREEDY_BELOW = 0.01


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How one sequence is sampled and when it ends.

    `logprobs` is the number of likeliest tokens reported with each sampled one, None for no
    logprobs at all. `abort_after` ends the sequence with finish_reason "abort" after that many
    tokens, as an engine does if instructed to drop its requests.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    allowed: frozenset[int] | None = None
    logprobs: int | None = None
    abort_after: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


def sample(
    distribution: Distribution, sampling: Sampling, banned: Container[int], chance: Random
) -> int:
    """Sample the next token.

    The logprobs to report are those of `distribution`, whatever is masked here.
    """
    allowed = sampling.allowed
    likely = [
        (number, logprob)
        for number, logprob in distribution.candidates.items()
        if number not in banned and (allowed is None or number in allowed)
    ]
    if likely and sampling.greedy:
        return likely[0][0]
    return _weighted(_trimmed(likely, sampling), distribution, sampling, banned, chance)


def _trimmed(likely: list[tuple[int, float]], sampling: Sampling) -> list[tuple[int, float]]:
    if sampling.top_k > 0:
        likely = likely[: sampling.top_k]
    if sampling.top_p >= 1:
        return likely
    mass = 0.0
    for place, (_, logprob) in enumerate(likely):
        mass += math.exp(logprob)
        if mass >= sampling.top_p:
            return likely[: place + 1]
    return likely


def _weighted(
    likely: Sequence[tuple[int, float]],
    distribution: Distribution,
    sampling: Sampling,
    banned: Container[int],
    chance: Random,
) -> int:
    heat = max(sampling.temperature, GREEDY_BELOW)
    weights = [math.exp(logprob / heat) for _, logprob in likely]
    untrimmed = sampling.top_k <= 0 and sampling.top_p >= 1
    rest = (SIZE - len(likely)) * math.exp(distribution.floor / heat) if untrimmed else 0.0
    pick = chance.random() * (sum(weights) + rest)
    for (number, _), weight in zip(likely, weights, strict=True):
        pick -= weight
        if pick < 0:
            return number
    if likely and not rest:
        return likely[-1][0]
    return chance.choice(_others(distribution, sampling, banned))


def _others(distribution: Distribution, sampling: Sampling, banned: Container[int]) -> list[int]:
    """Return the allowed tokens outside the candidates; else any allowed; else banned ones too."""
    pool = list(range(SIZE)) if sampling.allowed is None else sorted(sampling.allowed)
    free = [number for number in pool if number not in banned]
    return [number for number in free if number not in distribution.candidates] or free or pool
