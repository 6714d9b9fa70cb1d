"""Each call, a little after its end, against the ledger, its trace, and what workers say of it.

What was compared is forgotten, so that a soak of days takes no more memory than one of minutes.
"""

import sqlite3
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from time import monotonic

import msgspec
from support.records.usage_rows import (
    MAY_END,
    OUTCOMES,
    Row,
    Tokens,
    out_of_bounds,
    rows_after,
    unlike,
)

from soak.facts import Asked, Deleted, Fact, Looked, Served
from soak.plan import SOURCES

PROBLEMS = 200
"""So many are told; of the others how many."""

LONGEST = 300.0
"""Seconds that a call may take; what no caller has told of until then is nobody's."""


class Tally(msgspec.Struct):
    """How much was compared.

    `exact` calls had the engine's tokens, `partial` ones tokens between what was sent and what was
    read. `untraced` ones are rows that no worker knows of, and that have no trace. Of `traced`, the
    traces that were there, those of `deleted` sessions may be gone before they are looked for.
    """

    compared: int = 0
    rows: int = 0
    served: int = 0
    exact: int = 0
    partial: int = 0
    traced: int = 0
    untraced: int = 0
    deleted: int = 0
    tokens: int = 0
    problems: int = 0


class Ends(msgspec.Struct):
    """What workers and the gateway say of the end of a call, whose caller may tell of it later."""

    since: float = msgspec.field(default_factory=monotonic)
    served: list[Served] = []
    ids: list[str] = []


class Books:
    """Takes what is told, and compares what is old enough; times are seconds."""

    def __init__(self, settled: float, kept: float) -> None:
        self.tally = Tally()
        self.verdicts: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.problems: list[str] = []
        self.failures = 0
        self._settled = settled
        self._kept = kept
        self._asked: deque[tuple[float, Asked]] = deque()
        self._ends: dict[str, Ends] = {}
        self._rows: dict[str, tuple[float, Row]] = {}
        self._number = 0
        self._deleted: deque[tuple[float, str]] = deque()
        self._traced: deque[tuple[float, str, str]] = deque()

    def take(self, fact: Fact) -> None:
        match fact:
            case Asked():
                self._asked.append((monotonic(), fact))
                self._count(fact)
            case Served():
                self._ends_of(fact.call_id).served.append(fact)
            case Deleted():
                self._deleted.append((monotonic(), fact.session))
            case Looked():
                self.looks[f"{fact.what} {fact.status}"] += 1

    def ended(self, ids: Sequence[tuple[str, str]]) -> None:
        """Calls' own ids and their traces'."""
        for call_id, trace_id in ids:
            self._ends_of(call_id).ids.append(trace_id)

    def wrong(self, said: str) -> None:
        self.tally.problems += 1
        if len(self.problems) < PROBLEMS:
            self.problems.append(said)

    def compare(self, db: sqlite3.Connection, *, all_of_them: bool = False) -> None:
        """Those that are old enough, or all; the others wait."""
        now = monotonic()
        for number, row in rows_after(db, self._number).items():
            self._rows[row.trace_id] = (now, row)
            self._number = max(self._number, number)
            self.tally.rows += 1
        gone = {session for _, session in self._deleted}
        while self._asked and (all_of_them or self._asked[0][0] < now - self._settled):
            self._compare(self._asked.popleft()[1], db, gone)
        self._forget(now)
        self._find_orphans(now + 2 * LONGEST if all_of_them else now)

    def check_kept(self, db: sqlite3.Connection) -> int:
        """How many traces there must be, being young, and are."""
        gone = {session for _, session in self._deleted}
        young = [one for one in self._traced if one[0] > monotonic() - self._kept]
        for _, trace_id, session in young:
            if session not in gone and not _is_there(db, trace_id):
                self.wrong(f"trace {trace_id} was deleted before its time")
        return len(young)

    def _ends_of(self, call_id: str) -> "Ends":
        return self._ends.setdefault(call_id, Ends())

    def _count(self, asked: Asked) -> None:
        self.verdicts[f"{asked.kind} {asked.verdict}"] += 1
        if asked.verdict != "left":
            self.codes[f"{asked.status} {asked.code}".strip()] += 1
        if asked.status == 500 and asked.code != "soak":
            self.failures += 1
        if asked.fault:
            self.wrong(f"{asked.call_id}: {asked.fault}")

    def _compare(self, asked: Asked, db: sqlite3.Connection, gone: set[str]) -> None:
        self.tally.compared += 1
        ends = self._ends.pop(asked.call_id, None) or Ends()
        served = ends.served
        rows = [self._rows.pop(one)[1] for one in ends.ids if one in self._rows]
        for said in _wrong(asked, served, ends.ids, rows):
            self.wrong(f"{asked}: {said}; {served}; {rows}")
        for row in rows:
            self._look(asked, served, row, db, gone)

    def _look(
        self,
        asked: Asked,
        served: Sequence[Served],
        row: Row,
        db: sqlite3.Connection,
        gone: set[str],
    ) -> None:
        self.tally.served += bool(served)
        self.tally.exact += asked.verdict == "whole"
        self.tally.partial += asked.verdict != "whole" and bool(served)
        self.tally.tokens += row.prompt_tokens + row.completion_tokens
        if _is_there(db, row.trace_id):
            self.tally.traced += 1
            self._traced.append((monotonic(), row.trace_id, asked.session))
        elif asked.session in gone:
            self.tally.deleted += 1
        elif row.worker:
            self.wrong(f"{asked}: no trace; {row}")
        else:
            self.tally.untraced += 1

    def _forget(self, now: float) -> None:
        for some in (self._traced, self._deleted):
            while some and some[0][0] < now - self._kept - LONGEST:
                some.popleft()

    def _find_orphans(self, now: float) -> None:
        """What belongs to no call: callers tell of theirs long before."""
        for row in [row for since, row in self._rows.values() if since < now - LONGEST]:
            del self._rows[row.trace_id]
            self.wrong(f"a row of nobody's: {row}")
        for call_id in [one for one, ends in self._ends.items() if ends.since < now - LONGEST]:
            self.wrong(f"a call of nobody's: {call_id}: {self._ends.pop(call_id)}")


def _is_there(db: sqlite3.Connection, trace_id: str) -> bool:
    found = db.execute("SELECT 1 FROM traces WHERE trace_id = ?", (trace_id,)).fetchone()
    return found is not None


def _wrong(
    asked: Asked, served: Sequence[Served], ids: Sequence[str], rows: Sequence[Row]
) -> Iterator[str]:
    if sum(one.ran for one in served) > 1:
        yield "run more than once"
    if len(ids) > 1 or (not ids and (served or asked.verdict != "left")):
        yield f"{len(ids)} ends"
    if asked.kind == "unknown":
        if rows or served:
            yield "nobody's call is counted, or was served"
    elif len(rows) != len(ids):
        yield f"{len(rows)} rows"
    elif rows:
        yield from _wrong_row(asked, served, rows[0])


def _wrong_row(asked: Asked, served: Sequence[Served], row: Row) -> Iterator[str]:
    if row.key != asked.key:
        yield "another's key"
    if asked.key in SOURCES and row.source != SOURCES[asked.key]:
        yield "another source"
    last = served[-1] if served else None
    # It may have been broken off behind its last finish reason: then nothing of it is missing.
    sampled = asked.verdict == "broken" and last is not None and last.completion
    if row.outcome not in (OUTCOMES if sampled else MAY_END[asked.verdict]):
        yield "another outcome"
    if asked.kind != "answered":
        return
    if asked.verdict == "whole" and last is not None:
        if row.worker != last.worker:
            yield f"not {last.worker}'s"
        sent = Tokens(last.prompt, last.completion, last.cached, told=last.told)
        yield from unlike(row, sent if last.told else msgspec.structs.replace(sent, cached=0))
    elif asked.verdict == "whole":
        yield "no worker has served it"
    else:
        sent = Tokens(last.prompt, last.completion) if last is not None else Tokens(None, 0)
        yield from out_of_bounds(row, sent, asked.pieces)
