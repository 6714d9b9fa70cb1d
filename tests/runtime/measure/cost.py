"""What the plugin costs a realtime call, beside a gateway without it in the same run.

    python -m runtime.measure.cost [--rounds 10] [--seconds 1] [--stacks core,operator]

The model of the calls is hot. The gateways take turns (with, without, without, with), and the
median of the ratios of their CPU counts. Engine and callers have processes and a processor of their
own, see the bench. If the machine is busy, count instructions (`runtime.measure.instructions`).
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.programs import build, default_folder
from runtime.measure.meters import cpu
from runtime.measure.sides import STACKS, Side, sides

WARM = 3.0
"""Seconds of calls before the first turn."""


def by_clock(side: Side, *, seconds: float, stream: bool, callers: int) -> float:
    """Return microseconds of CPU per call."""
    before = cpu(side.pid)
    answered = side.call(seconds, stream=stream, callers=callers)
    return (cpu(side.pid) - before) / answered * 1e6


Turn = Callable[[Side], float]


def rounds(first: Side, second: Side, turn: Turn, count: int) -> Iterator[tuple[float, float]]:
    """Yield what a call costs with the plugin and without."""
    for _ in range(count):
        more, less, less_again, more_again = map(turn, (first, second, second, first))
        yield (more + more_again) / 2, (less + less_again) / 2


def measure(stack: str, programs: Path, folder: Path, asked: argparse.Namespace) -> None:
    """Measure plain calls and streams, and print what was found."""
    with sides(stack, programs, folder) as both:
        for stream in (False, True):
            for side in both:
                side.call(WARM, stream=stream, callers=asked.callers)
            turn = partial(by_clock, seconds=asked.seconds, stream=stream, callers=asked.callers)
            found = list(rounds(*both, turn, asked.rounds))
            report(f"{stack}, {'stream' if stream else 'plain'}", found)


def report(what: str, found: list[tuple[float, float]]) -> None:
    more, less = (statistics.median(column) for column in zip(*found, strict=True))
    ratios = sorted(one / other for one, other in found)
    print(  # noqa: T201
        f"{what:16} with {more:7.1f} us, without {less:7.1f} us,"
        f" ratio {statistics.median(ratios):.4f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--stacks", default=",".join(STACKS))
    asked = parser.parse_args()
    programs = build(default_folder())
    with tempfile.TemporaryDirectory() as folder:
        for stack in asked.stacks.split(","):
            measure(stack, programs, Path(folder), asked)


if __name__ == "__main__":
    main()
