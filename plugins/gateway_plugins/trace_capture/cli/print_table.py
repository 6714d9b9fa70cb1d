"""Formats traces as lines of a text table."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

import msgspec

from gateway import Database, Trace, Verdict
from gateway_plugins.trace_capture.handover.states import State
from gateway_plugins.trace_capture.store.row_decoder import RowDecoder, StoredRow, UnreadableRow

MAX_CELL_WIDTH = 40
"""Maximum characters of a cell; longer text is cut."""

LAYOUT_BATCH = 100
"""Lines laid out together."""

HEADINGS = ("ID", "TIME", "SESSION", "MODEL", "WORKER", "TOKENS", "VERDICT", "REASONS")


class Line(msgspec.Struct, frozen=True):
    """One line of the table. `time` is UTC; token counts are the engine's."""

    trace_id: str
    time: str
    session_id: str
    model: str
    worker: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    verdict: Verdict = "INCOMPLETE"
    reasons: list[str] = []


def lines_of(db: Database, rows: Iterable[StoredRow]) -> Iterator[Line]:
    """Yield the line of each row; if the row cannot be read, its reason is `damaged`."""
    decoder = RowDecoder(db)
    for row in rows:
        try:
            yield _line(decoder.trace(row))
        except UnreadableRow:
            yield Line(
                trace_id=row.trace_id,
                time=_time(row.timestamp),
                session_id=row.session_id or "",
                model=row.model,
                reasons=["damaged"],
            )


def _line(trace: Trace) -> Line:
    return Line(
        trace_id=trace.trace_id,
        time=_time(trace.timestamp),
        session_id=trace.session_id,
        model=trace.model,
        worker=trace.worker,
        prompt_tokens=trace.token_counts.get("prompt", 0),
        completion_tokens=trace.token_counts.get("completion", 0),
        verdict=trace.verdict,
        reasons=[*trace.reasons],
    )


def table(lines: Iterable[Line]) -> Iterator[str]:
    """Yield headings, then rows of text; control characters are escaped, for the terminal."""
    coming = iter(lines)
    widths = [len(heading) for heading in HEADINGS]
    waiting: list[tuple[str, ...]] = [HEADINGS]
    while waiting:
        waiting += [_cells(line) for line in islice(coming, LAYOUT_BATCH)]
        for column, cells in enumerate(zip(*waiting, strict=True)):
            widths[column] = max(widths[column], *map(len, cells))
        for row in waiting:
            yield "  ".join(map(str.ljust, row, widths)).rstrip()
        waiting = [_cells(line) for line in islice(coming, 1)]


def claims_table(found: Iterable[State]) -> Iterator[str]:
    """Yield headings, then a row for each state."""
    yield f"{'STATE':16} {'COUNT':>9}  OLDEST"
    for one in found:
        oldest = "" if one.oldest is None else _time(one.oldest)
        yield f"{one.state:16} {one.number:9}  {oldest}".rstrip()


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.trace_id,
        line.time,
        _cut(line.session_id),
        _cut(line.model),
        _cut(line.worker or ""),
        f"{line.prompt_tokens}+{line.completion_tokens}",
        line.verdict,
        ",".join(line.reasons),
    )


def _cut(text: str) -> str:
    shown = "".join(
        one if one.isprintable() else _escaped(one) for one in text[: MAX_CELL_WIDTH + 1]
    )
    return shown if len(shown) <= MAX_CELL_WIDTH else shown[: MAX_CELL_WIDTH - 3] + "..."


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode()


def _time(timestamp: float) -> str:
    try:
        moment = datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
