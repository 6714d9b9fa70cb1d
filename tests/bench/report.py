"""A run with its table, as it is kept in a file."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.found import Found
from bench.rows import Line, Row
from gateway import ConfigError


class Report(msgspec.Struct, frozen=True):
    """The lines of the table are under their rows' names."""

    found: Found
    table: dict[str, list[Line]]


def report_of(found: Found, rows: Sequence[Row]) -> Report:
    return Report(found, {row.name: list(row.lines(found)) for row in rows})


def write(report: Report, file: Path) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(file: Path) -> Report:
    """Raises ConfigError where it is none that was written."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file}: is no file that --json wrote: {error}") from error
