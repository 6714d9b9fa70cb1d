"""What probes and calls together tell of one worker: whether it is up, suspect or down.

Nothing here waits, logs or sends; times are those of one monotonic clock, in seconds.

| probes              | calls | another worker is fit | it is the last one |
|---------------------|-------|-----------------------|--------------------|
| refused             | any   | down                  | down               |
| unresolved          | well  | suspect               | suspect            |
|                     | else  | down                  | down               |
| failed              | well  | down                  | suspect            |
|                     | else  | down                  | down               |
| late                | well  | suspect               | suspect            |
|                     | bad   | down                  | down               |
|                     | none  | down                  | suspect            |

A suspect worker gets calls. An engine that compiles or reads a long prompt is late, and lateness
alone is no outage: without another worker it would only turn late responses into refusals. A worker
that says of itself that it is unwell is left alone if another one can take its calls.
"""

import errno
import re
import socket
from collections import deque
from typing import Literal, NamedTuple

from gateway.errors import CallError, ConnectFailed, OutOfSockets, UpstreamTimeout
from gateway.upstream.phase_timer import NEVER
from gateway.upstream.pool import OWN_LACK

FailureKind = Literal["refused", "unresolved", "failed", "late"]
"""How a probe or a call failed: no server listens, its name is unknown, a wrong response or a
broken one, and no response in time."""

State = Literal["up", "suspect", "down"]
Calls = Literal["well", "bad", "none"]

_NOBODY_THERE = frozenset(
    (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
)
_OWN_FAULTS = OWN_LACK | {errno.EAGAIN}
"""Errors of the gateway's own machine, which tell nothing of a worker."""

_NUMBERS = re.compile(r"\[Errno (\d+)\]")


def failure_kind(error: CallError) -> FailureKind | None:
    """Return how a worker failed; None if the gateway itself is to blame, or the caller."""
    if isinstance(error, OutOfSockets):
        return None
    if isinstance(error, UpstreamTimeout):
        return "late"
    cause = error.__cause__
    if not isinstance(error, ConnectFailed) or not isinstance(cause, OSError):
        return "failed"
    if isinstance(cause, socket.gaierror):
        return "unresolved"
    # The errors of several addresses come as one error, with their numbers in its text.
    numbers = {cause.errno or 0, *map(int, _NUMBERS.findall(str(cause)))}
    if numbers & _OWN_FAULTS:
        return None
    return "refused" if numbers & _NOBODY_THERE else "failed"


class Signs(NamedTuple):
    """When a call last went well, or a part of a response came; and when one last failed."""

    well: float = NEVER
    bad: float = NEVER

    def since(self, start: float) -> Calls:
        if self.well >= start:
            return "well"
        return "bad" if self.bad >= start else "none"


def verdict(kind: FailureKind, calls: Calls, *, last: bool) -> State:
    """Return the state of a worker whose probes fail, see the table above.

    `last`: no other worker that serves one of its models is fit.
    """
    if kind == "refused":
        return "down"
    if kind == "failed":
        return "suspect" if calls == "well" and last else "down"
    if calls == "none":
        return "suspect" if kind == "late" and last else "down"
    return "suspect" if calls == "well" else "down"


class Vitals:
    """The state of one worker by its probes and calls.

    A worker that fails `fall` probes in a row is judged; one that refuses a connection is judged at
    once. A worker that is down after `fall` failures is up again after `rise` successes in a row,
    any other after one. `period` is the time between two probes, in which calls count as evidence.
    """

    def __init__(self, fall: int, rise: int, period: float, state: State = "up") -> None:
        self.state: State = state
        self.failures = 0
        self.kind: FailureKind | None = None
        self._fall = fall
        self._rise = rise
        self._period = period
        self._successes = 0
        self._confirmed = state == "down"
        self._began: deque[float] = deque(maxlen=fall)
        self._proof: tuple[FailureKind, float] | None = None

    @property
    def hopeful(self) -> bool:
        """Whether to look again soon: the worker was not there, or has just passed a probe."""
        absent = self.kind in ("refused", "unresolved")
        return self.state == "down" and (absent or self._successes > 0)

    def succeeded(self) -> State:
        """Record a probe that went well."""
        self._successes += 1
        self._forget()
        needed = self._rise if self._confirmed else 1
        if self.state != "down" or self._successes >= needed:
            self.state, self._confirmed = "up", False
        return self.state

    def failed(self, kind: FailureKind, began: float, signs: Signs, *, last: bool) -> State:
        """Record a probe that began at `began` and failed, or a call that reached nobody."""
        self._successes = 0
        self.failures += 1
        self.kind = kind
        self._began.append(began)
        if kind != "late":
            self._proof = kind, began
        absent = kind in ("refused", "unresolved")
        if self.failures >= self._fall or absent:
            calls = signs.since(min(self._began[0], began - self._period))
            self.state = verdict(self._latest(signs), calls, last=last)
            self._confirmed = self.state == "down" and self.failures >= self._fall
        return self.state

    def _latest(self, signs: Signs) -> FailureKind:
        """How it failed; lateness does not excuse an earlier failure unless a call went well."""
        if self._proof is not None and signs.well < self._proof[1]:
            return self._proof[0]
        return "late" if self._proof is None else self.kind or "late"

    def _forget(self) -> None:
        self.failures = 0
        self.kind = self._proof = None
        self._began.clear()
