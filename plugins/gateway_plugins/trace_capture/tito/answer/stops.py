"""Stop strings in what the engine's parser says, which does not know of them.

The parser reads all sampled tokens, and the last of them has the stop string and more.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gateway import is_true


def stops_of(request: Mapping[str, Any]) -> list[str]:
    """Return the stop strings of a request."""
    stop = request.get("stop")
    given = stop if isinstance(stop, list) else [stop]
    return [one for one in given if isinstance(one, str) and one]


def keeps_stop(request: Mapping[str, Any]) -> bool:
    """Whether the caller wants the stop string in the text."""
    return is_true(request.get("include_stop_str_in_output"))


def begun(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a stop string."""
    longest = max(map(len, stops), default=0)
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(len(stop) > length and stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


def cut_at(text: str, stop: str, whole: str, *, keep: bool) -> str:
    """Return the text up to the stop string at which the engine stopped.

    `whole` is the engine's own text, which ends there. `keep`: the string itself stays.
    """
    ends = [match.start() + len(stop) * keep for match in re.finditer(re.escape(stop), text)]
    return text[: max(ends, key=lambda end: _shared(text[:end], whole))] if ends else text


def _shared(one: str, other: str) -> int:
    """Return the number of characters that both texts end in."""
    pairs = enumerate(zip(reversed(one), reversed(other), strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
