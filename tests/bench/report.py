"""A run with its table, as it is kept in a file."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.found import Found
from bench.lines import Line, View
from bench.rows import Row
from gateway import ConfigError

Table = dict[str, list[Line]]
"""The lines are under their rows' names."""


class Report(msgspec.Struct, frozen=True):
    """With the table, and what would be in it if an earlier build were the present one."""

    found: Found
    table: Table
    earlier: dict[str, Table] = {}


def report_of(found: Found, rows: Sequence[Row]) -> Report:
    tables = {build: _table(View(found, build), rows) for build in ("", *found.builds)}
    return Report(found, tables.pop(""), tables)


def _table(view: View, rows: Sequence[Row]) -> Table:
    return {row.name: list(row.lines(view)) for row in rows}


def write(report: Report, file: Path) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(file: Path) -> Report:
    """Raises ConfigError where it is none that was written."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file}: is no file that --json wrote: {error}") from error
