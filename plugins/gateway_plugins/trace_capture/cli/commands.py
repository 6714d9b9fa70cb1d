"""`gateway traces list|show|export|claims`: reads the file without a gateway."""

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import Config, ConfigError, Database, StorageError, StorageUnavailable
from gateway_plugins.trace_capture.cli.export import (
    Progress,
    TraceExport,
    progress_stream,
    replaced,
    trajectory_steps,
)
from gateway_plugins.trace_capture.cli.open_file import opened
from gateway_plugins.trace_capture.cli.print_table import claims_table, lines_of, table
from gateway_plugins.trace_capture.exports.formats import (
    FORMATS,
    PARQUET_FILE,
    TRACES,
    TRAINERS,
    file_of,
)
from gateway_plugins.trace_capture.exports.output import JsonLines, Output, Tally
from gateway_plugins.trace_capture.exports.parquet import load
from gateway_plugins.trace_capture.exports.rows import TrajectoryRow
from gateway_plugins.trace_capture.exports.sessions_out import KINDS, SessionExport, Wanted
from gateway_plugins.trace_capture.handover.states import states
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.row_decoder import UnreadableRow

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

Options = argparse.Namespace
Run = Callable[[Options], int]

DEFAULT_LIMIT = 50
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
TIMES = "ISO 8601 (local, or with an offset), Unix seconds, or how long ago: 30m, 2h, 7d"
STATUS = """\
Exit status: 0 all selected traces are written; 1 some were left out, and standard error says how
many and why; 2 nothing was written. INCOMPLETE traces are left out unless --allow-incomplete is
given; --verdict COMPLETE does not select them."""


def add_trace_commands(subcommands: "Subcommands") -> None:
    """Add the `traces` command."""
    parser = subcommands.add_parser("traces", help="list, print and export recorded traces")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_list(actions)
    _add_show(actions)
    _add_export(actions)
    _add_claims(actions)


def _add_list(actions: "Subcommands") -> None:
    parser = actions.add_parser("list", help="print one line per trace, newest last")
    _add_file(parser)
    _add_filters(parser)
    parser.add_argument(
        "--limit",
        type=_count,
        default=DEFAULT_LIMIT,
        help=f"number of newest traces ({DEFAULT_LIMIT}); 0: all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.set_defaults(run=_naming_output(_list))


def _add_show(actions: "Subcommands") -> None:
    parser = actions.add_parser("show", help="print one trace as JSON")
    parser.add_argument("trace_id", metavar="ID")
    _add_file(parser)
    parser.set_defaults(run=_naming_output(_show))


def _add_export(actions: "Subcommands") -> None:
    parser = actions.add_parser("export", help="write traces or trajectories", epilog=STATUS)
    _add_file(parser)
    _add_filters(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file to write instead of standard output"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format; default: by the suffix of the file. Those of trainers hold trajectories",
    )
    parser.add_argument(
        "--trajectories",
        action="store_true",
        help="write token sequences with loss masks, of each session with a selected trace",
    )
    parser.add_argument(
        "--fork-kind",
        type=_kinds,
        metavar="KIND[,KIND]",
        help=f"only trajectories that are such forks: {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="write INCOMPLETE traces, too"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.set_defaults(run=_naming_output(_export))


def _add_claims(actions: "Subcommands") -> None:
    parser = actions.add_parser("claims", help="count trajectories by what trainers did with them")
    _add_file(parser)
    parser.set_defaults(run=_naming_output(_claims))


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, help="YAML or TOML file with the path of the database"
    )
    parser.add_argument(
        "--storage-path",
        metavar="FILE",
        help="file of the embedded database (gateway.db)",
    )
    parser.add_argument("--db-path", dest="storage_path", help=argparse.SUPPRESS)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--session", dest="sessions", action="append", metavar="ID", help="session; repeatable"
    )
    parser.add_argument("--since", type=_moment, metavar="TIME", help=f"earliest start: {TIMES}")
    parser.add_argument("--until", type=_moment, metavar="TIME", help="exclusive latest start")
    parser.add_argument("--model", help="model that the traces name")
    parser.add_argument(
        "--verdict",
        type=str.upper,
        choices=("COMPLETE", "INCOMPLETE"),
        help="verdict of the traces",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return int(text)


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(text.split(","))
    if not kinds.issubset(KINDS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(KINDS)}, got {text!r}")
    return kinds


def _moment(text: str) -> float:
    """Parse a time into Unix seconds. Raises ArgumentTypeError if it is not one."""
    try:
        if text[-1:] in UNITS:
            found = time.time() - float(text[:-1]) * UNITS[text[-1]]
        elif text.replace(".", "", 1).isdecimal():
            found = float(text)
        else:
            found = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        found = math.nan
    if not 0 <= found <= 1e12:
        raise argparse.ArgumentTypeError(f"expected a time ({TIMES}), got {text!r}")
    return found


def _filter(options: Options) -> queries.TraceFilter:
    return queries.TraceFilter(
        session_ids=None if options.sessions is None else tuple(options.sessions),
        since=options.since,
        until=options.until,
        model=options.model,
        verdict=options.verdict,
    )


def _naming_output(run: Run) -> Run:
    """Report an error of standard output, such as a full disk, as one."""

    @wraps(run)
    def named(options: Options) -> int:
        try:
            status = run(options)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"standard output: {error.strerror or error}") from error
        return status

    return named


def _list(options: Options) -> int:
    wanted = _filter(options)
    with opened(options.settings.with_database(options.storage_path)) as db:
        limit = options.limit or None
        after = queries.before_newest(db, wanted, limit) if limit else None
        lines = lines_of(db, queries.rows(db, wanted, after=after, limit=limit))
        for line in (
            map(msgspec.json.encode, lines) if options.json else map(str.encode, table(lines))
        ):
            _print(line)
    return 0


def _show(options: Options) -> int:
    settings: Config = options.settings.with_database(options.storage_path)
    with opened(settings) as db:
        try:
            trace = queries.get(db, options.trace_id)
        except UnreadableRow as error:
            raise ConfigError(f"{settings.storage.path}: {error}") from error
    if trace is None:
        _print_error(f"{settings.storage.path}: there is no trace {options.trace_id}")
        return 1
    _print(msgspec.json.format(msgspec.json.encode(trace), indent=2))
    return 0


def _claims(options: Options) -> int:
    settings: Config = options.settings.with_database(options.storage_path)
    with opened(settings) as db:
        try:
            found = list(states(db))
        except StorageUnavailable:
            raise
        except StorageError:
            path = settings.storage.path
            raise ConfigError(f"{path}: no gateway that hands over has used this file") from None
    for line in claims_table(found):
        _print(line.encode())
    return 0


def _export(options: Options) -> int:
    to_stdout = options.output in (None, Path("-"))
    kind = _format(options, to_stdout)
    options.trajectories |= kind in TRAINERS
    if options.fork_kind is not None and not options.trajectories:
        raise ConfigError("--fork-kind is for trajectories: say --trajectories, too")
    with opened(options.settings.with_database(options.storage_path)) as db:
        if to_stdout:
            tally = _write(options, kind, db, JsonLines(sys.stdout.buffer))
        else:
            with (
                replaced(options.output, force=options.force) as partial,
                _output(kind, partial, _row_type(options, kind)) as output,
            ):
                tally = _write(options, kind, db, output)
        _, lost = queries.count_sessions(db, _filter(options))
    for line in _summary(options, tally, lost):
        _print_error(line)
    return int(tally.left_out > 0 and not _allowed(options))


def _format(options: Options, to_stdout: bool) -> str:
    suffix = "" if to_stdout else options.output.suffix.lower()
    kind: str | None = options.format or (SUFFIXES.get(suffix) if suffix else "jsonl")
    if kind is None:
        formats = ", ".join(FORMATS)
        raise ConfigError(f"{options.output}: what format is that? say --format: {formats}")
    file = file_of(kind)
    if file is PARQUET_FILE:
        load()
    if to_stdout and not file.is_text:
        name = f"a file of {kind}" if kind in TRAINERS else "Parquet"
        raise ConfigError(f"{name} cannot go to standard output; name a file with -o")
    return kind


def _row_type(options: Options, kind: str) -> type[msgspec.Struct]:
    if kind in TRAINERS:
        return TRAINERS[kind].row_type
    return TrajectoryRow if options.trajectories else TRACES[kind].row_type


@contextlib.contextmanager
def _output(kind: str, path: Path, row_type: type[msgspec.Struct]) -> Iterator[Output]:
    with path.open("wb") as stream:
        output = file_of(kind).open(stream, row_type)
        try:
            yield output
        finally:
            output.close()


def _write(options: Options, kind: str, db: Database, output: Output) -> Tally:
    wanted, allowed = _filter(options), _allowed(options)
    follow = Progress(progress_stream(to_stdout=options.output is None)).follow
    if not options.trajectories:
        traces = TraceExport(db, output, TRACES[kind].row_of, incomplete=allowed)
        follow(traces.steps(wanted), "traces", lambda: queries.count(db, wanted))
        return traces.tally
    kinds = options.fork_kind or frozenset(KINDS)
    chosen = Wanted(verdict=options.verdict, kinds=kinds, incomplete=allowed)
    export = SessionExport(db, kind, output, chosen)
    steps = trajectory_steps(db, export, wanted)
    follow(steps, "sessions", lambda: queries.count_sessions(db, wanted)[0])
    return export.tally


def _allowed(options: Options) -> bool:
    return bool(options.allow_incomplete or options.verdict == "INCOMPLETE")


def _summary(options: Options, tally: Tally, lost: int) -> Iterator[str]:
    what = "trajectories" if options.trajectories else "traces"
    yield f"{tally.written} {what} written"
    if tally.left_out:
        yield f"{tally.left_out} left out: {tally.why()}"
        if not _allowed(options):
            yield "--allow-incomplete writes it if it can be; --verdict COMPLETE asks for no other"
    if lost:
        yield f"{lost} calls of these sessions are not in the file: they could not be stored"


def _print(line: bytes) -> None:
    """Write a line of UTF-8, whatever the terminal's encoding."""
    sys.stdout.buffer.write(line + b"\n")


def _print_error(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201  a command line prints
