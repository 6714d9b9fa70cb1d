"""Faults that the simulator applies to responses: names, arguments and effects.

| name         | argument | effect for the caller                                                |
|--------------|----------|----------------------------------------------------------------------|
| refuse       |          | no connection at all; for the whole simulator only                   |
| hang         |          | the request is read and never answered                               |
| reset-before |          | the connection is reset before any byte                              |
| garbage      |          | bytes that are not HTTP                                              |
| 500, 503     |          | that status with an error body                                       |
| slow         | seconds  | that much more time before each token                                |
| reset        | events   | a reset after that many events, or after half of a plain response    |
| close        | events   | an end inside an event, or inside a plain response                   |
| truncate     |          | as close:1; a plain response ends short of its content-length        |
| error-event  | events   | an error event, then `[DONE]`, as when the engine dies; plain: a 500 |
| abort        | tokens   | a normal end with finish_reason "abort", as when the engine stops;   |
|              |          | abort:0 is an end before the first token                             |

The default argument is 1.
"""

from typing import Literal, get_args

import msgspec

FaultName = Literal[
    "refuse",
    "hang",
    "reset-before",
    "garbage",
    "500",
    "503",
    "slow",
    "reset",
    "close",
    "truncate",
    "error-event",
    "abort",
]

NAMES: tuple[str, ...] = get_args(FaultName)
_WITH_ARGUMENT = frozenset({"slow", "reset", "close", "error-event", "abort"})


class Fault(msgspec.Struct, frozen=True):
    """One kind of failure. `argument` is a count, or seconds for "slow"."""

    name: FaultName
    argument: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Parse NAME or NAME:ARGUMENT. Raises ValueError with the accepted form."""
        name, separator, argument = text.strip().partition(":")
        try:
            known = msgspec.convert(name, FaultName)
        except msgspec.ValidationError:
            raise ValueError(f"no fault is called {name!r}; there are {', '.join(NAMES)}") from None
        if not separator:
            return cls(known)
        if name not in _WITH_ARGUMENT:
            raise ValueError(f"the fault {name!r} takes no argument, got {argument!r}")
        return cls(known, _number(name, argument))


def _number(name: str, argument: str) -> float:
    try:
        number = float(argument)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name}:{argument} needs a number that is not negative, as in {name}:3")
    return number


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """The fault that applies to all callers; a call can also request one of its own.

    The fault applies to generation calls, or with `everywhere` to every path, health and metrics
    included. With `first` it applies only to that many calls, and then the simulator has recovered.
    """

    fault: Fault | None = None
    first: int | None = None
    everywhere: bool = False

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """The fault NAME[:ARGUMENT] for every generation call; raises as `Fault.parse` does."""
        return cls(fault=Fault.parse(text))

    @property
    def refuses(self) -> bool:
        """Whether all connections are refused."""
        return self.fault is not None and self.fault.name == "refuse"
