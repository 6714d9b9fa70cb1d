"""Listing of keys without their secrets: lines, and a table of them."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from gateway_plugins.auth.keys import DEFAULT_SCOPES, Entry, Fault
from gateway_plugins.auth.times import to_iso

HEADINGS = ("ID", "STATE", "SCOPES", "EXPIRES", "MODELS", "WORKERS", "LABELS", "SECRET")


class Line(msgspec.Struct, frozen=True):
    """One key in the listing. `models` and `workers` are null if any is allowed.

    `secret`: how the file stores the secret.
    """

    id: str
    state: Literal["valid", Fault]
    scopes: Sequence[str]
    expires: str | None
    models: Sequence[str] | None
    workers: Sequence[str] | None
    labels: dict[str, str]
    secret: Literal["hashed", "plain", "certificate"]


def line_of(entry: Entry, now: float) -> Line:
    """Return the line of an entry; `now` is in Unix seconds."""
    until = entry.until
    return Line(
        id=entry.id,
        state=_state(entry, now),
        scopes=DEFAULT_SCOPES if entry.scopes is None else entry.scopes,
        expires=None if until is None else to_iso(until),
        models=entry.models,
        workers=entry.workers,
        labels=entry.labels,
        secret=_secret(entry),
    )


def _secret(entry: Entry) -> Literal["hashed", "plain", "certificate"]:
    if entry.certificate is not None:
        return "certificate"
    return "plain" if entry.token is not None else "hashed"


def _state(entry: Entry, now: float) -> Literal["valid", Fault]:
    if entry.revoked:
        return "revoked"
    return "valid" if entry.until is None or now < entry.until else "expired"


def table(lines: Iterable[Line]) -> list[str]:
    rows = [HEADINGS, *(_row(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(line: Line) -> tuple[str, ...]:
    return (
        line.id,
        line.state,
        ",".join(line.scopes) or "none",
        line.expires or "never",
        _names(line.models),
        _names(line.workers),
        ",".join(f"{name}={value}" for name, value in line.labels.items()),
        line.secret,
    )


def _names(names: Sequence[str] | None) -> str:
    return "any" if names is None else ",".join(names) or "none"
