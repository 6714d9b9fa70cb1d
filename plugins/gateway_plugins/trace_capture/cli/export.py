"""Writes traces and trajectories to files for trainers; by default only COMPLETE ones."""

import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

import msgspec

from gateway import ConfigError, Database, Reward, SessionInfo, Trajectories, Trajectory, Verdict
from gateway_plugins.trace_capture.sequences.trajectories import trajectories
from gateway_plugins.trace_capture.sessions import rewards, sessions
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.row_decoder import RowDecoder, UnreadableRow

_encode = msgspec.json.Encoder().encode


class TrajectoryRow(Trajectory, kw_only=True):
    """A self-contained trajectory: with its session's id and metadata.

    `session_rewards` are the rewards of the session as a whole, `rewards` those of the trajectory's
    traces. `session_lost` is the number of the session's calls that could not be stored.
    """

    session_id: str
    session_metadata: dict[str, Any]
    session_rewards: list[Reward]
    session_lost: int


class Output(Protocol):
    """A destination of rows."""

    def write(self, row: msgspec.Struct) -> None:
        """Write a row. Raises ValueError if the format cannot hold a value of the row."""

    def close(self) -> None:
        """Write the rest; the output is incomplete before this call."""


class JsonLines:
    """An Output: one JSON object per line."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, row: msgspec.Struct) -> None:
        self._stream.write(_encode(row) + b"\n")

    def close(self) -> None:
        self._stream.flush()


class Tally(msgspec.Struct):
    """Counts of rows written and left out; a row with several reasons counts under each of them.

    Reasons besides those of the records: `damaged` if the file does not yield the row, and
    `does_not_fit` if the format cannot hold it.
    """

    written: int = 0
    left_out: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)

    def leave_out(self, reasons: Iterable[str]) -> None:
        self.left_out += 1
        self.reasons.update(reasons)

    def why(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())


class Export:
    """Writes traces or trajectories to `output`. `incomplete`: also those not COMPLETE."""

    def __init__(self, db: Database, output: Output, *, incomplete: bool) -> None:
        self.tally = Tally()
        self._db = db
        self._output = output
        self._incomplete = incomplete

    def traces(self, wanted: queries.TraceFilter) -> Iterator[None]:
        """Write the wanted traces; yield once per trace."""
        decoder = RowDecoder(self._db)
        for row in queries.rows(self._db, wanted):
            try:
                trace = decoder.trace(row)
            except UnreadableRow:
                self.tally.leave_out(["damaged"])
            else:
                self._put(trace, trace.verdict, trace.reasons)
            yield

    def trajectories(self, wanted: queries.TraceFilter) -> Iterator[None]:
        """Write all trajectories of each session that has a wanted trace; yield once per session.

        `wanted.verdict` selects trajectories, not traces. Each trajectory is written whole.
        """
        of_sessions = msgspec.structs.replace(wanted, verdict=None)
        for session_id in queries.sessions_of(self._db, of_sessions):
            try:
                self._session(session_id, wanted.verdict)
            except UnreadableRow:
                self.tally.leave_out(["damaged"])
            yield

    def _session(self, session_id: str, verdict: Verdict | None) -> None:
        traces = queries.select(self._db, queries.TraceFilter(session_ids=(session_id,)))
        found = trajectories(session_id, traces, rewards.of_session(self._db, session_id))
        for row in _rows(self._db, found):
            if verdict in (None, row.verdict):
                self._put(row, row.verdict, row.reasons)
        for reasons in found.left_out.values() if verdict is None else ():
            self.tally.leave_out(reasons)

    def _put(self, row: msgspec.Struct, verdict: Verdict, reasons: Iterable[str]) -> None:
        if verdict != "COMPLETE" and not self._incomplete:
            self.tally.leave_out(reasons)
            return
        try:
            self._output.write(row)
        except ValueError:
            self.tally.leave_out(["does_not_fit"])
        else:
            self.tally.written += 1


def _rows(db: Database, found: Trajectories) -> Iterator[TrajectoryRow]:
    session = sessions.get(db, found.session_id) or SessionInfo(session_id=found.session_id)
    common: dict[str, Any] = {
        "session_id": found.session_id,
        "session_metadata": session.metadata,
        "session_rewards": [reward for reward in found.rewards if reward.trace_id is None],
        "session_lost": session.lost,
    }
    for one in found.trajectories:
        yield TrajectoryRow(**msgspec.structs.asdict(one), **common)


@contextlib.contextmanager
def replaced(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a file beside `path` to write to, which replaces `path` if the block does not raise.

    Its mode is 0600. Raises ConfigError if `path` is not a file, if it exists and `force` is false,
    and for an OSError raised in the block.
    """
    path = path.resolve()
    _check_free(path, force)
    try:
        with _beside(path) as (partial, number):
            yield partial
            os.fsync(number)
            _check_free(path, force)
            partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, int]]:
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        yield Path(name), number
    finally:
        os.close(number)
        Path(name).unlink(missing_ok=True)


def _check_free(path: Path, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is not a file; name another with -o")
    if path.exists() and not force:
        raise ConfigError(f"{path}: is there already; --force replaces it")


class Progress:
    """A progress bar on a terminal; writes nothing to any other stream."""

    WIDTH = 30
    EVERY = 0.1

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._next = 0.0

    def follow(self, steps: Iterable[None], what: str, total: Callable[[], int]) -> None:
        """Run all steps. `total()` is their number, `what` the plural noun shown for a step."""
        if self._stream is None:
            for _ in steps:
                pass
            return
        most = total()
        try:
            for done, _ in enumerate(steps, 1):
                self._show(self._stream, done, most, what)
        finally:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _show(self, stream: TextIO, done: int, most: int, what: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.EVERY
        share = min(done / max(most, 1), 1.0)
        bar = "#" * int(share * self.WIDTH)
        stream.write(f"\r[{bar:{self.WIDTH}}] {share:4.0%}  {done} of {most} {what}")
        stream.flush()


def progress_stream(to_stdout: bool) -> TextIO | None:
    """Return standard error, or None if the rows are written to a terminal."""
    return None if to_stdout and sys.stdout.isatty() else sys.stderr
