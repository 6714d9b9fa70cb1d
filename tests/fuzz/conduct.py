"""Runs targets: the same inputs for the same seed."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from fuzz.mutation import mutated
from fuzz.target import Differs, Target
from gateway.kernel.interface import Functions


class Report(NamedTuple):
    """How many inputs the kernel took, and how many it left to the Python code."""

    taken: int
    left: int


def run(target: Target, native: Functions, inputs: int, seed: int) -> Report:
    """Compare `inputs` inputs. Raises Differs, which names the input that shows it again."""
    taken = 0
    seeds = target.seeds()
    for number, random in _numbered(inputs, seed):
        given = mutated(random.choice(seeds), seeds, random)
        try:
            taken += target.compare(native, given, random)
        except Exception as error:
            again = f"python -m fuzz --target {target.name} --seed {seed} --only {number}"
            raise Differs(f"{error!r}\n{given!r}\n{again}") from error
    return Report(taken, inputs - taken)


def run_only(target: Target, native: Functions, number: int, seed: int) -> bool:
    """Compare the input of that number alone; return whether the kernel took the input."""
    seeds = target.seeds()
    random = _random(seed, number)
    return target.compare(native, mutated(random.choice(seeds), seeds, random), random)


def _numbered(inputs: int, seed: int) -> Iterator[tuple[int, Random]]:
    for number in range(inputs):
        yield number, _random(seed, number)


def _random(seed: int, number: int) -> Random:
    return Random(f"{seed} {number}")
