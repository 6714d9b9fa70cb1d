"""Writes the trajectories of sessions, one session after the other."""

from collections.abc import Collection, Iterable

import msgspec

from gateway import Database, SessionInfo, Trajectory, Verdict
from gateway_plugins.trace_capture.exports.formats import TRAINERS
from gateway_plugins.trace_capture.exports.output import Output, Tally
from gateway_plugins.trace_capture.exports.rollout import NothingToTrain, Rollout, Turns
from gateway_plugins.trace_capture.exports.rows import TrajectoryRow, add_arrays, row_of
from gateway_plugins.trace_capture.sequences.forks import FORK_KINDS, NO_FORK
from gateway_plugins.trace_capture.sequences.trajectories import trajectories
from gateway_plugins.trace_capture.sessions import rewards, sessions
from gateway_plugins.trace_capture.store import queries

KINDS = (NO_FORK, *FORK_KINDS)


class Wanted(msgspec.Struct, frozen=True):
    """Which trajectories: of a verdict (None: any) and of kinds of forks.

    `incomplete`: INCOMPLETE ones are written, too. `owner`: only traces of this principal's.
    """

    verdict: Verdict | None = None
    kinds: Collection[str] = frozenset(KINDS)
    incomplete: bool = False
    owner: str | None = None


class SessionExport:
    """Writes rows of the format `name` to an Output."""

    def __init__(self, db: Database, name: str, output: Output, wanted: Wanted) -> None:
        self.tally = Tally()
        self._db = db
        self._trainer = TRAINERS.get(name)
        self._output = output
        self._wanted = wanted
        self._sessions = 0

    def write(self, session_id: str) -> None:
        """Write the wanted trajectories of a session. Raises UnreadableRow on damage."""
        filter_ = queries.TraceFilter(session_ids=(session_id,), owner=self._wanted.owner)
        turns = Turns()
        traces = turns.following(queries.select(self._db, filter_))
        given = rewards.of_session(self._db, session_id)
        found = trajectories(session_id, traces, given)
        session = sessions.get(self._db, session_id) or SessionInfo(session_id=session_id)
        overall = [reward for reward in given if reward.trace_id is None]
        for one in found.trajectories:
            if self._is_wanted(one):
                self._put(row_of(one, session, overall), turns, session)
        self._sessions += 1
        if self._wanted.verdict is None:
            self._leave_out(found.left_out.values())

    def _leave_out(self, traces: Iterable[Iterable[str]]) -> None:
        for reasons in traces:
            self.tally.leave_out(reasons)

    def _is_wanted(self, one: Trajectory) -> bool:
        of_kind = (one.fork_kind or NO_FORK) in self._wanted.kinds
        return of_kind and self._wanted.verdict in (None, one.verdict)

    def _put(self, row: TrajectoryRow, turns: Turns, session: SessionInfo) -> None:
        if row.verdict != "COMPLETE" and not self._wanted.incomplete:
            self.tally.leave_out(row.reasons)
            return
        try:
            self._output.write(self._made(row, turns, session))
        except NothingToTrain as error:
            self.tally.leave_out(error.reasons)
        except ValueError:
            self.tally.leave_out(["does_not_fit"])
        else:
            self.tally.written += 1

    def _made(self, row: TrajectoryRow, turns: Turns, session: SessionInfo) -> msgspec.Struct:
        if self._trainer is None:
            add_arrays(row, turns.of(row))
            return row
        last = queries.get(self._db, row.trace_ids[-1])
        if last is None:
            raise ValueError("the trace is not there any more")
        rollout = Rollout(
            row,
            turns.of(row),
            last,
            session,
            row.session_rewards,
            number=self.tally.written,
            session_number=self._sessions,
        )
        return self._trainer.row_of(rollout)
