"""Validates an input file: finds every line that is at fault."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway_plugins.batch.batches.input.checking import Checker, Limits, Mistake, Mistaken, TooMany
from gateway_plugins.batch.batches.input.lines import lines_of

MAX_MISTAKES = 100
"""Mistakes of a file that are told."""


class Findings(msgspec.Struct, frozen=True):
    """What a file has. `model`: all lines name it. A valid file has no mistakes."""

    lines: int
    model: str | None
    mistakes: list[Mistake]


def validate(path: Path, endpoint: str, limits: Limits, step: Callable[[], None]) -> Findings:
    """Read a file to its end, or to its MAX_MISTAKES-th mistake.

    Blocks for seconds, with one line in memory. Calls `step` before each line. Raises OSError.
    """
    checker, mistakes = Checker(endpoint, limits), list[Mistake]()
    for line in lines_of(path, limits.line_bytes):
        step()
        try:
            checker.check(line)
        except Mistaken as error:
            mistakes.append(error.at(line.number))
            if isinstance(error, TooMany) or len(mistakes) >= MAX_MISTAKES:
                break
    if not checker.lines:
        mistakes.append(Mistake("empty_file", "the file has no request"))
    model = checker.models[0] if len(checker.models) == 1 else None
    return Findings(checker.lines, model, mistakes)
