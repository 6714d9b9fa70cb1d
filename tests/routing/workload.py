"""Sessions of agents: turns that grow, with tools between them."""

import math
from collections.abc import Iterator
from random import Random

import msgspec

BLOCK = 256
"""Tokens of one block of the cache. Engines have smaller ones; these keep the simulation quick."""

SHARED = 4_096
"""Tokens that all sessions of one kind of agent begin with: instructions and tools."""


class Step(msgspec.Struct, frozen=True):
    """One turn: `prompt` and `output` in tokens, and the seconds until the next turn begins."""

    prompt: int
    output: int
    pause: float


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One agent. `kind` is one of a few, `principal` the key that it calls with."""

    number: int
    kind: int
    principal: str
    start: float
    steps: tuple[Step, ...]

    def blocks(self, tokens: int) -> list[int]:
        """Return the ids of the full blocks of the first `tokens` tokens; equal ids, equal text."""
        shared = SHARED // BLOCK
        own = (self.number + 1) << 20
        first = -(self.kind + 1) << 20
        count = tokens // BLOCK
        return [*range(first, first + min(count, shared)), *range(own + shared, own + count)]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions there are, and how they are; times are seconds, sizes tokens.

    `named`: whether callers say which session a call belongs to. The other numbers are means.
    """

    sessions: int = 610
    kinds: int = 4
    principals: int = 2
    within: float = 30.0
    turns: float = 20.0
    task: float = 2_000.0
    result: float = 800.0
    output: float = 250.0
    pause: float = 8.0
    named: bool = True


def sessions_of(load: Load, seed: int) -> list[Session]:
    """Return the sessions of a load, the same ones for the same seed."""
    chance = Random(seed)
    return [
        Session(
            number=number,
            kind=chance.randrange(load.kinds),
            principal=f"key-{chance.randrange(load.principals)}",
            start=chance.uniform(0, load.within),
            steps=tuple(_steps(load, chance)),
        )
        for number in range(load.sessions)
    ]


def _steps(load: Load, chance: Random) -> Iterator[Step]:
    prompt = SHARED + _around(load.task, 0.6, chance)
    for _ in range(max(2, _around(load.turns, 0.4, chance))):
        output = _around(load.output, 0.8, chance)
        yield Step(prompt, output, _varied(load.pause, 1.0, chance))
        prompt += output + _around(load.result, 0.9, chance)


def _around(mean: float, sigma: float, chance: Random) -> int:
    return max(1, round(_varied(mean, sigma, chance)))


def _varied(mean: float, sigma: float, chance: Random) -> float:
    """A log-normal number, at most eight times its mean."""
    return min(chance.lognormvariate(math.log(mean) - sigma**2 / 2, sigma), 8 * mean)
