"""Writes traces and trajectories to files for trainers; by default only COMPLETE ones."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from gateway import ConfigError, Database, Trace
from gateway_plugins.trace_capture.exports.output import Output, Tally
from gateway_plugins.trace_capture.exports.sessions_out import SessionExport
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.row_decoder import RowDecoder, UnreadableRow

RowOf = Callable[[Trace], msgspec.Struct]


class TraceExport:
    """Writes the row of each trace to `output`. `incomplete`: also those not COMPLETE."""

    def __init__(self, db: Database, output: Output, row_of: RowOf, *, incomplete: bool) -> None:
        self.tally = Tally()
        self._db = db
        self._output = output
        self._row_of = row_of
        self._incomplete = incomplete

    def steps(self, wanted: queries.TraceFilter) -> Iterator[None]:
        """Write the wanted traces; yield once per trace."""
        decoder = RowDecoder(self._db)
        for row in queries.rows(self._db, wanted):
            try:
                trace = decoder.trace(row)
            except UnreadableRow:
                self.tally.leave_out(["damaged"])
            else:
                self._put(trace)
            yield

    def _put(self, trace: Trace) -> None:
        if trace.verdict != "COMPLETE" and not self._incomplete:
            self.tally.leave_out(trace.reasons)
            return
        try:
            self._output.write(self._row_of(trace))
        except ValueError:
            self.tally.leave_out(["does_not_fit"])
        else:
            self.tally.written += 1


def trajectory_steps(
    db: Database, export: SessionExport, wanted: queries.TraceFilter
) -> Iterator[None]:
    """Write all trajectories of each session that has a wanted trace; yield once per session.

    Each trajectory is written whole, whatever the verdict of its traces.
    """
    for session_id in queries.sessions_of(db, msgspec.structs.replace(wanted, verdict=None)):
        try:
            export.write(session_id)
        except UnreadableRow:
            export.tally.leave_out(["damaged"])
        yield


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
