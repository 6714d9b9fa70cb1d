"""`gateway usage` prints tables of usage; `gateway usage verify` compares it with the traces."""

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import msgspec

from gateway import Config, ConfigError, GatewayError, create_app
from gateway_plugins.usage.options import Options
from gateway_plugins.usage.report.open_file import opened
from gateway_plugins.usage.report.queries import COLUMNS, Values, Wanted, sums
from gateway_plugins.usage.report.runs import run_sums
from gateway_plugins.usage.report.verify import Checked, ReadTraces, differences, uncounted

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

Arguments = argparse.Namespace

RUN = "run"
"""The column of sums over the calls of runs."""

STATUS = """\
Exit status: 0 usage and traces agree; 1 they differ, one line for each difference; 2 they could not
be compared. Only calls that the ledger still has are compared (keep_calls_days). Standard error
tells what was compared."""


def add_usage_commands(subcommands: "Subcommands") -> None:
    """Add `usage`."""
    parser = subcommands.add_parser("usage", help="print the usage of keys, or verify it")
    _add_file(parser)
    parser.add_argument(
        "--by",
        type=_columns,
        default=("key",),
        metavar="COLUMNS",
        help=f"columns to sum by (key), comma-separated: {', '.join((*COLUMNS, RUN))}",
    )
    parser.add_argument("--key", help="print only this key")
    parser.add_argument(
        "--since", type=_day, metavar="DAY", help="first day, YYYYMMDD or YYYY-MM-DD, UTC"
    )
    parser.add_argument("--until", type=_day, metavar="DAY", help="last day")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", metavar="FILE", help="write CSV to FILE; -: standard output")
    form.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.set_defaults(run=_show)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    verify = actions.add_parser("verify", help="compare usage with the traces", epilog=STATUS)
    _add_file(verify, default=argparse.SUPPRESS)
    verify.add_argument("--verbose", action="store_true", help=argparse.SUPPRESS)  # always so
    verify.set_defaults(run=_verify)


def _add_file(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=default,
        help="YAML or TOML file with the path of the database",
    )
    parser.add_argument(
        "--storage-path", default=default, metavar="FILE", help="file of the embedded database"
    )
    parser.add_argument(
        "--db-path", dest="storage_path", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def _columns(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in found if name not in (*COLUMNS, RUN)]
    if unknown:
        known = ", ".join((*COLUMNS, RUN))
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {known}")
    return found


def _day(text: str) -> int:
    for form in ("%Y%m%d", "%Y-%m-%d"):
        try:
            return int(datetime.strptime(text, form).strftime("%Y%m%d"))
        except ValueError:
            continue
    raise argparse.ArgumentTypeError(f"expected a day such as 20261121, got {text!r}")


def _show(options: Arguments) -> int:
    wanted = Wanted(options.key, options.since, options.until)
    with opened(options.settings.with_database(options.storage_path)) as db:
        rows = (run_sums if RUN in options.by else sums)(db, options.by, wanted)
        if options.json:
            for row in rows:
                _say(msgspec.json.encode(row).decode())
        elif options.csv is not None:
            _write_csv(options.csv, rows)
        else:
            for line in _table(list(rows)):
                _say(line)
    return 0


def _write_csv(name: str, rows: Iterable[Values]) -> None:
    if name == "-":
        _write_rows(sys.stdout, rows)
        return
    try:
        with Path(name).open("w", encoding="utf-8", newline="") as file:
            _write_rows(file, rows)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be written: {error.strerror or error}") from error


def _write_rows(file: TextIO, rows: Iterable[Values]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for place, row in enumerate(rows):
        if not place:
            writer.writerow(row)
        writer.writerow(row.values())


def _table(rows: Sequence[Values]) -> list[str]:
    """Align numbers to the right; escape control characters, which could move the cursor."""
    if not rows:
        return []
    heads = [name.upper().replace("_", " ") for name in rows[0]]
    cells = [heads, *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    texts = [isinstance(value, str) for value in rows[0].values()]
    lines = []
    for row in cells:
        aligned = zip(row, widths, texts, strict=True)
        parts = [cell.ljust(width) if text else cell.rjust(width) for cell, width, text in aligned]
        lines.append("  ".join(parts).rstrip())
    return lines


def _cell(value: str | int) -> str:
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _verify(options: Arguments) -> int:
    settings: Config = options.settings.with_database(options.storage_path)
    read_traces, internal_id = _sources(settings)
    checked, found = Checked(), 0
    with opened(settings) as db:
        try:
            of_traces = differences(db, read_traces, internal_id, checked)
            for line in chain(of_traces, uncounted(db, Path(settings.storage.path), checked)):
                _say(line)
                found += 1
        except (GatewayError, OSError) as error:
            raise ConfigError(
                f"{settings.storage.path}: the traces cannot be read: {error}"
            ) from error
    sys.stderr.write(f"{'differences: ' + str(found) if found else 'ok'}: {checked}\n")
    return int(found > 0)


def _sources(settings: Config) -> tuple[ReadTraces, str]:
    """Return the configured `read_traces` hook, and the key of calls without a principal."""
    gateway = create_app(settings)
    readers = gateway.hooks("read_traces")
    if not readers:
        raise ConfigError(
            "no plugin gives traces back: name the gateway's configuration with --config, and let "
            "it have trace_capture"
        )
    configs = (one.config for one in gateway.plugins.loaded if isinstance(one.config, Options))
    config = next(configs, Options())
    return readers[0].run, config.internal_id


def _say(line: str) -> None:
    """Print in UTF-8, regardless of the terminal's encoding."""
    sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")
