"""Compares usage with the traces, and the sums with the ledger."""

import calendar
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway import Database, Trace
from gateway_plugins.usage.journal.recovery import calls_of, journals_of, taken
from gateway_plugins.usage.ledger.schema import COUNT_OF_A_CALL, COUNTS, DAY_OF_A_CALL, WAY
from gateway_plugins.usage.report.expected import Expected, expected

OUTCOME_NAMES = ("success", "error", "abort")
"""Names of the values of a row's `outcome`."""

FOREVER = 1e11
"""Unix seconds; no call is recorded after this time."""

ReadTraces = Callable[[Database, float, float], Iterator[Trace]]
"""The hook `read_traces`: yields the traces of calls from one time until before another."""


class Checked(msgspec.Struct):
    """What has been compared so far: traces, rows of the ledger, sums of days and in all.

    `in_flight` are the calls in journals of gateways that run.
    """

    traces: int = 0
    rows: int = 0
    days: int = 0
    totals: int = 0
    in_flight: int = 0

    def __str__(self) -> str:
        return (
            f"{self.traces} traces compared with {self.rows} calls in the ledger, "
            f"{self.days} sums of days and {self.totals} totals with these calls; "
            f"{self.in_flight} calls in flight"
        )


class Counted(NamedTuple):
    """The columns of a ledger row that a trace can confirm."""

    key: str
    model: str
    worker: str
    outcome: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    counted: int
    unread: int
    repeated: int


_COUNTED = f"SELECT {','.join(Counted._fields)} FROM usage_calls WHERE id = :id"


def differences(
    db: Database, read_traces: ReadTraces, internal_id: str, checked: Checked
) -> Iterator[str]:
    """Yield one line per difference; `internal_id` is the key of calls without a principal.

    Calls are compared from the first one in the ledger on; sums are compared for the time for which
    the ledger has all calls.
    """
    [(first,)] = db.select("SELECT min(id) FROM usage_calls")
    if first is not None:
        since = int.from_bytes(first[:6], "big") / 1000
        for trace in read_traces(db, max(since, _midnight(_kept(db, "calls"))), FOREVER):
            checked.traces += 1
            yield from _of_call(db, trace, internal_id)
    yield from _of_days(db)
    yield from _of_totals(db)
    [(checked.rows,)] = db.select("SELECT count(*) FROM usage_calls")
    [(checked.days,)] = db.select("SELECT count(*) FROM usage_days")
    [(checked.totals,)] = db.select("SELECT count(*) FROM usage_totals")


def uncounted(db: Database, database: Path, checked: Checked) -> Iterator[str]:
    """Yield a line per call that only a journal has, because its gateway died.

    Raises OSError if the journals cannot be read.
    """
    for path in journals_of(database):
        with taken(path) as fd:
            calls = calls_of(path)
            if fd is None:
                checked.in_flight += len(calls)
                continue
        for call in calls:
            if next(db.select(_COUNTED, {"id": call.id}), None) is None:
                yield (
                    f"call {call.id.hex()}: is in {path.name}, whose gateway died, and is not "
                    "counted; a gateway that runs counts it within ten seconds"
                )


def _of_call(db: Database, trace: Trace, internal_id: str) -> Iterator[str]:
    row = next(db.select(_COUNTED, {"id": _blob(trace.trace_id)}), None)
    if row is None:
        yield f"call {trace.trace_id}: has a trace, and is not counted"
        return
    for name, expected_row, counted in _compared(expected(trace, internal_id), Counted(*row)):
        yield f"call {trace.trace_id}: {name}: {expected_row!r} by its trace, {counted!r} counted"


def _blob(trace_id: str) -> bytes:
    try:
        return bytes.fromhex(trace_id)
    except ValueError:  # not the id of a call, so the ledger has no row
        return b""


def _compared(expected_row: Expected, row: Counted) -> Iterator[tuple[str, object, object]]:
    """Yield each difference: its name, the value of the trace, the value that was counted."""
    if row.key != expected_row.key:
        yield "key", expected_row.key, row.key
    if row.model not in expected_row.models:
        yield "model", expected_row.models[0], row.model
    if row.worker != expected_row.worker:
        yield "worker", expected_row.worker, row.worker
    if row.outcome != expected_row.outcome:
        yield "outcome", OUTCOME_NAMES[expected_row.outcome], OUTCOME_NAMES[row.outcome]
    # What the engine did not report as it should is as the gateway kept it in both books.
    for name, tokens in (expected_row.kept if row.unread else expected_row.tokens).items():
        if getattr(row, name) != tokens:
            yield name, tokens, getattr(row, name)
    if expected_row.counted is not None and not row.unread and row.counted != expected_row.counted:
        yield "counted", expected_row.counted, bool(row.counted)
    if row.repeated != expected_row.repeated:
        yield "repeated", expected_row.repeated, bool(row.repeated)


_SUMS = ", ".join(f"sum({COUNT_OF_A_CALL[name]}) AS {name}" for name in COUNTS)
_WAY = ", ".join(WAY)
_COLUMNS = f"{_WAY}, {', '.join(COUNTS)}"


def _of_days(db: Database) -> Iterator[str]:
    since = max(_kept(db, "calls"), _kept(db, "days"))
    stored = f"SELECT day, {_COLUMNS} FROM usage_days WHERE day >= {since}"
    summed = f"SELECT {DAY_OF_A_CALL} AS day, {_WAY}, {_SUMS} FROM usage_calls GROUP BY 1, {_WAY}"
    yield from _unlike(db, stored, f"SELECT * FROM ({summed}) WHERE day >= {since}")


def _of_totals(db: Database) -> Iterator[str]:
    """Compare the totals with the ledger.

    Once calls were deleted, check only that no total is below that of the remaining calls.
    """
    if _kept(db, "calls"):
        for *way, counted, left in db.select(_SHORT):
            yield f"total, {_named(way)}: {counted} calls counted, {left} in the ledger"
        return
    stored = f"SELECT 0 AS day, {_COLUMNS} FROM usage_totals"
    yield from _unlike(db, stored, f"SELECT 0, {_WAY}, {_SUMS} FROM usage_calls GROUP BY {_WAY}")


def _unlike(db: Database, stored: str, summed: str) -> Iterator[str]:
    """Yield a line per sum that is in one query's result only, for both directions."""
    for title, one, other in (("counted", stored, summed), ("in the ledger", summed, stored)):
        query = f"SELECT * FROM ({one}) EXCEPT SELECT * FROM ({other}) ORDER BY 1, 2, 3, 4, 5"
        for day, *rest in db.select(query):
            way, counts = rest[: len(WAY)], dict(zip(COUNTS, rest[len(WAY) :], strict=True))
            said = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            when = f"day {day}" if day else "total"
            yield f"{when}, {_named(way)}: only {title}: {said or 'nothing'}"


_SHORT = f"""
SELECT {_WAY}, coalesce(requests + repeated, 0) AS counted, left FROM (
    SELECT {_WAY}, requests + repeated AS left, prompt_tokens AS prompts,
        completion_tokens AS completions, wasted_tokens AS wasted
    FROM (SELECT {_WAY}, {_SUMS} FROM usage_calls GROUP BY {_WAY})
) LEFT JOIN usage_totals USING ({_WAY})
WHERE requests IS NULL OR requests + repeated < left
    OR prompt_tokens < prompts OR completion_tokens < completions OR wasted_tokens < wasted
"""


def _kept(db: Database, name: str) -> int:
    """Return the first day that is complete; 0 if nothing was ever deleted."""
    rows = db.select("SELECT value FROM usage_marks WHERE name = :name", {"name": name})
    return int(next(rows, (0,))[0])


def _midnight(day: int) -> float:
    """Return the Unix time at which that day begins; 0.0 for day 0."""
    return calendar.timegm(time.strptime(str(day), "%Y%m%d")) if day else 0.0


def _named(way: list[str]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in zip(WAY, way, strict=True))
