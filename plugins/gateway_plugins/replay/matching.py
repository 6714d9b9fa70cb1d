"""Finds the recorded call that a call of a new run repeats."""

from collections import Counter, OrderedDict
from typing import NamedTuple

import msgspec

from gateway_plugins.replay.recording import Recording, Session, Step

MAX_SESSIONS = 10_000
"""Sessions of new runs that are remembered, the latest ones."""

NO_SESSION = "no recorded session makes this call first"
ENDED = "all calls of the recorded session were made, and no `to_step` says that others go on live"
REPEATED = "the recorded session made this call fewer times, and goes on"
OTHER = "the recorded session makes another call"


class Recorded(NamedTuple):
    """The call is answered from the recording."""

    session_id: str
    step: Step


class Live(NamedTuple):
    """The call goes to a worker; `step` is the recorded call that it repeats, if it does."""

    session_id: str
    step: Step | None


class Diverged(NamedTuple):
    """The recorded session did not make the call: `expected` is the next one that it made."""

    session_id: str | None
    expected: Step | None
    why: str


class _Progress(msgspec.Struct):
    """How far a session of a new run has come in the recorded session `name`."""

    name: str
    session: Session
    made: set[int] = set()
    first: int = 1

    def take(self, digest: bytes) -> Step | None:
        """Return the first call with this request that was not made yet; it is made now."""
        numbers = self.session.numbers.get(digest, ())
        number = next((one for one in numbers if one not in self.made), None)
        if number is None:
            return None
        self.made.add(number)
        while self.first in self.made:
            self.first += 1
        return self.session.steps[number - 1]

    def expected(self, to_step: int | None) -> Step | None:
        """The first call up to `to_step` that was not made yet."""
        last = len(self.session.steps) if to_step is None else to_step
        steps = self.session.steps
        return steps[self.first - 1] if self.first <= min(last, len(steps)) else None


_Follower = tuple[str | None, str | None]
"""The principal's id and the session's."""


class Matcher:
    """Each session of a new run follows one recorded session; several may follow the same.

    Sessions of two principals are two, also if they have the same id.
    """

    def __init__(self, recording: Recording, to_step: int | None) -> None:
        self._recorded = recording.sessions
        self._to_step = to_step
        self._progress: OrderedDict[_Follower, _Progress] = OrderedDict()
        self._followers: Counter[str] = Counter()

    def match(
        self, session_id: str | None, digest: bytes, principal: str | None = None
    ) -> Recorded | Live | Diverged:
        """Say what becomes of the next call of a session; `digest` is that of its request."""
        progress = self._of((principal, session_id), digest)
        if progress is None:
            name = self._least_followed()
            return Diverged(None, self._recorded[name].steps[0], NO_SESSION)
        step, last = progress.take(digest), self._to_step
        if step is not None:
            offline = last is None or step.number <= last
            return (Recorded if offline else Live)(progress.name, step)
        expected = progress.expected(last)
        if expected is None and last is not None:
            return Live(progress.name, None)
        repeated = digest in progress.session.numbers
        why = ENDED if expected is None else REPEATED if repeated else OTHER
        return Diverged(progress.name, expected, why)

    def _of(self, follower: _Follower, digest: bytes) -> _Progress | None:
        known = self._progress.get(follower)
        if known is not None:
            self._progress.move_to_end(follower)
            return known
        name = self._name_for(follower[1], digest)
        if name is None:
            return None
        self._followers[name] += 1
        made = self._progress[follower] = _Progress(name, self._recorded[name])
        if len(self._progress) > MAX_SESSIONS:
            _, forgotten = self._progress.popitem(last=False)
            self._followers[forgotten.name] -= 1
        return made

    def _name_for(self, session_id: str | None, digest: bytes) -> str | None:
        """The recorded session of the same id, else the least followed one that has the call."""
        if (session_id or "") in self._recorded:
            return session_id or ""
        having = [name for name, one in self._recorded.items() if digest in one.numbers]
        return min(having, key=self._followers.__getitem__, default=None)

    def _least_followed(self) -> str:
        return min(self._recorded, key=self._followers.__getitem__)
