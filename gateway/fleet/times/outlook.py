"""When a worker that gets no calls now may get calls again: the basis of `Retry-After`."""

from collections.abc import Iterable
from time import monotonic

from gateway.errors import retry_after


class Absence:
    """How long a worker has been away, and how long it was away before; times are monotonic.

    `since` is None while the worker is there. `usual` is the length of the latest absence.
    """

    __slots__ = ("since", "usual")

    def __init__(self) -> None:
        self.since: float | None = None
        self.usual: float | None = None

    def begin(self, now: float) -> None:
        if self.since is None:
            self.since = now

    def end(self, now: float) -> None:
        if self.since is not None:
            self.usual, self.since = now - self.since, None

    def remaining(self, now: float, usual: float | None) -> float:
        """Estimate the rest of an absence, in seconds.

        It is the rest of its usual length, `usual` if it was never away before. If there is none,
        or if this absence is longer already, it may last as long again.
        """
        gone = 0.0 if self.since is None else now - self.since
        length = self.usual if self.usual is not None else usual
        return length - gone if length is not None and length > gone else gone


def seconds_until_one(absences: Iterable[Absence], everyone: Iterable[Absence]) -> int:
    """Estimate when the first of `absences` ends, within the bounds.

    A worker that was never away before is taken to be like the slowest of `everyone`.
    """
    now = monotonic()
    usual = max((one.usual for one in everyone if one.usual is not None), default=None)
    first = min(one.remaining(now, usual) for one in absences)
    return retry_after(first)
