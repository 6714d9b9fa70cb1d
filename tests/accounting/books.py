"""The ledger against what was written down: what must hold, call by call."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from support.records.usage_rows import Row, Tokens, may_end, out_of_bounds, rows_after, unlike

from accounting.calls import KEYS, LAME, Asked
from accounting.tap import Served, events_of, tokens_of

DRAINING = 503
"""Status for calls that come to a process whose supervisor is gone."""


class Books(NamedTuple):
    """`traced` are the ids of the calls' traces by the calls' own ids, each as often as it is."""

    rows: Mapping[str, Row]
    traced: Mapping[str, Sequence[str]]
    served: Mapping[str, Sequence[Served]]


class Findings(msgspec.Struct):
    """`cut_off` are calls that were in flight at the kill, and have no trace.

    `recovered` of them have a row nevertheless, with `noted` tokens of the completions; no worker
    had begun to serve any of the others.
    """

    problems: list[str] = []
    cut_off: list[Asked] = []
    recovered: int = 0
    noted: int = 0
    exact: int = 0
    partial: int = 0
    tokens: int = 0


def rows_of(db: sqlite3.Connection) -> dict[str, Row]:
    return {row.trace_id: row for row in rows_after(db, 0).values()}


def by_call(served: Iterable[Served]) -> dict[str, list[Served]]:
    found: dict[str, list[Served]] = {}
    for one in served:
        found.setdefault(one.call_id, []).append(one)
    return found


def compare(asked: Sequence[Asked], books: Books) -> Findings:
    """Every call with its row, and every row with its call."""
    findings = Findings()
    for one in asked:
        _compare(one, books, findings)
    findings.problems += _of_untraced(asked, books)
    findings.problems += _of_recovered(books, findings)
    return findings


def _compare(asked: Asked, books: Books, findings: Findings) -> None:
    ask = asked.ask
    traced = books.traced.get(ask.call_id, ())
    rows = [books.rows[one] for one in traced if one in books.rows]
    if len(traced) > 1 or len(rows) != len(traced):
        findings.problems.append(f"{ask.call_id}: {len(traced)} traces, {len(rows)} rows")
    if ask.kind != "answered":
        if traced:
            findings.problems.append(f"{ask.call_id}: {ask.kind}, and there is a trace")
    elif rows:
        said = list(_wrong(asked, rows[0], books.served.get(ask.call_id, ()), findings))
        findings.problems += [f"{ask.call_id} {asked.verdict}: {one}; {rows[0]}" for one in said]
        findings.tokens += rows[0].prompt_tokens + rows[0].completion_tokens
    elif asked.doomed and (not asked.said.whole or asked.said.status == DRAINING):
        findings.cut_off.append(asked)
    elif asked.verdict != "left" or ask.call_id in books.served:
        findings.problems.append(f"{ask.call_id} {asked.verdict}: no row; {asked.said.status}")


def _wrong(asked: Asked, row: Row, served: Sequence[Served], findings: Findings) -> Iterator[str]:
    if row.key != asked.ask.key:
        yield "another's key"
    if row.source != SOURCES.get(row.key):
        yield "another source"
    last = served[-1] if served else None
    if row.outcome not in may_end(asked.verdict, b"" if last is None else bytes(last.body)):
        yield "another outcome"
    if last is not None and asked.verdict == "whole" and row.worker != last.worker:
        yield f"not {last.worker}'s"
    sent = Tokens(None, 0) if last is None else tokens_of(last, asked.ask.choices)
    if asked.verdict == "whole":
        findings.exact += 1
        yield from unlike(row, sent)
    else:
        findings.partial += 1
        yield from out_of_bounds(row, sent, pieces_of(asked))


def pieces_of(asked: Asked) -> int:
    """How many events with text its caller has read, each of one token or more."""
    if not asked.said.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        return 0
    choices = [
        choice for event in events_of(asked.said.body) for choice in event.get("choices", ())
    ]
    return sum(bool(one.get("text") or one.get("delta", {}).get("content")) for one in choices)


def untraced(books: Books) -> list[Row]:
    traced = {trace_id for ids in books.traced.values() for trace_id in ids}
    return [row for trace_id, row in books.rows.items() if trace_id not in traced]


def _of_untraced(asked: Sequence[Asked], books: Books) -> Iterator[str]:
    """Rows without a trace: refusals, and calls whose callers left before there was anything."""
    rows = [row for row in untraced(books) if not row.recovered]
    refused = Counter(row.key for row in rows if row.outcome == "error")
    left = Counter(row.key for row in rows if row.outcome == "abort")
    said = [one for one in asked if one.ask.kind == "untraced"]
    sure = Counter(one.ask.key for one in said if one.verdict == "error")
    perhaps = Counter(one.ask.key for one in said)
    gone = Counter(
        one.ask.key
        for one in asked
        if one.verdict == "left" and one.ask.call_id not in books.traced
    )
    for key in (*KEYS, LAME):
        if not sure[key] <= refused[key] <= perhaps[key]:
            yield f"{key}: {sure[key]} refused without a trace, {refused[key]} such rows"
        if left[key] > gone[key]:
            yield f"{key}: {gone[key]} left without a trace, {left[key]} such rows"
    yield from (f"a row of nobody's: {row}" for row in rows if row.key not in (*KEYS, LAME))
    served = (row for row in rows if row.outcome == "success" or row.completion_tokens)
    yield from (f"served without a trace: {row}" for row in served)


class Remains(NamedTuple):
    """Calls that were cut off and rows of such calls, of the same key and the same size."""

    asked: list[Asked]
    rows: list[Row]


def _of_recovered(books: Books, findings: Findings) -> Iterator[str]:
    """Each call that a worker had begun to serve has a row, with no more than the worker had said.

    Their ids died with the gateway: it is by their keys and sizes that calls and rows are matched.
    """
    found: dict[tuple[str, int], Remains] = defaultdict(lambda: Remains([], []))
    for asked in findings.cut_off:
        found[asked.ask.key, len(asked.ask.body) // 4].asked.append(asked)
    for row in untraced(books):
        if row.recovered:
            found[row.key, row.prompt_tokens].rows.append(row)
            findings.recovered += 1
            findings.noted += row.completion_tokens
    for alike in found.values():
        yield from _unlike_remains(alike, books)


def _unlike_remains(alike: Remains, books: Books) -> Iterator[str]:
    served = [books.served.get(one.ask.call_id, ()) for one in alike.asked]
    if not sum(map(bool, served)) <= len(alike.rows) <= len(served):
        ids = [one.ask.call_id for one in alike.asked]
        yield f"in flight at the kill: {ids}, {sum(map(bool, served))} served; {alike.rows}"
        return
    said = sorted((max(map(events_in, pages), default=0) for pages in served), reverse=True)
    noted = sorted((row.completion_tokens for row in alike.rows), reverse=True)
    if any(heard > told for heard, told in zip(noted, said, strict=False)):
        yield f"in flight at the kill: {said} events were said; {alike.rows}"
    servers = {page.worker for pages in served for page in pages}
    for row in alike.rows:
        heard = row.completion_tokens > 0  # else it may be one that could not be reached
        if (heard and row.worker not in servers) or row.source != SOURCES.get(row.key):
            yield f"in flight at the kill: not by its worker or source: {row}"


def events_in(said: Served) -> int:
    """How many have ended; each is taken for a token while a stream runs."""
    return said.body.count(b"\n\n")


SOURCES = {"ada": "realtime", "ben": "batch", "cy": "eval", "dee": "realtime", LAME: "realtime"}
"""Each has the scope that its calls are counted as; the first of all where it has several."""

COUNTS = ("requests", "successes", "errors", "aborts", "prompt_tokens", "completion_tokens")


def check_sums(db: sqlite3.Connection, rows: Iterable[Row]) -> list[str]:
    """Days and totals by key are what the rows add up to."""
    expected: dict[str, Counter[str]] = {}
    for row in rows:
        plural = {"success": "successes", "error": "errors", "abort": "aborts"}[row.outcome]
        sums = expected.setdefault(row.key, Counter())
        sums.update({"requests": 1, plural: 1})
        sums.update(prompt_tokens=row.prompt_tokens, completion_tokens=row.completion_tokens)
    problems = []
    for table in ("usage_days", "usage_totals"):
        columns = ", ".join(f"sum({name})" for name in COUNTS)
        found = {
            key: dict(zip(COUNTS, sums, strict=True))
            for key, *sums in db.execute(f"SELECT key, {columns} FROM {table} GROUP BY key")
        }
        wanted = {key: {name: sums[name] for name in COUNTS} for key, sums in expected.items()}
        if found != wanted:
            problems.append(f"{table}: {found}; the rows add up to {wanted}")
    return problems
