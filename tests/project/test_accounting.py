"""What the ledger says against what engines served and callers read; and the comparison itself."""

import sqlite3
from collections.abc import Iterator, Sequence

import pytest
from accounting.books import Books, Findings, check_sums, compare
from accounting.calls import Ask, Asked, Verdict
from accounting.conduct import Plan, Report, run
from accounting.load import verdict_of
from accounting.tap import Said, Served, tokens_of
from support.records.usage_rows import Row, Tokens

from gateway.testing import DONE, sse

SMALL = Plan(calls=200, callers=16, workers=2, itl=0.0005)


async def test_usage_ledger_counts_a_small_storm_of_calls_exactly() -> None:
    report = await run(SMALL)
    assert report.problems == []
    assert_all_kinds_of_calls(report)


def assert_all_kinds_of_calls(report: Report) -> None:
    assert sum(report.verdicts.values()) == SMALL.calls
    assert report.verdicts.keys() >= {"whole", "error", "broken", "left"}
    assert report.statuses.keys() >= {200, 400, 401, 403}
    assert report.outcomes.keys() == {"success", "error", "abort"}
    assert report.exact > SMALL.calls / 3
    assert report.recovered <= report.cut_off <= report.in_flight_at_kill < SMALL.calls / 4


# the comparison sees what is wrong

TOLD = {"prompt_tokens": 5, "completion_tokens": 2}
TEXT = {"index": 0, "delta": {"content": "a"}, "token_ids": [1]}
STREAM = (
    sse({"choices": [TEXT], "prompt_token_ids": [1, 2, 3, 4, 5]}),
    sse({"choices": [TEXT]}),
    sse({"choices": [], "usage": TOLD}),
    DONE,
)
ROW = Row("t", "ada", "sim", "w0", "realtime", "success", 5, 2, 0, 0)


def said(events: int, *, whole: bool = True) -> Said:
    headers = {b"content-type": b"text/event-stream; charset=utf-8"}
    return Said(200, headers, bytearray(b"".join(STREAM[:events])), whole)


def asked(read: Said, verdict: Verdict = "whole", *, doomed: bool = False) -> Asked:
    ask = Ask(call_id="c", key="ada", path="/v1/chat/completions", body=b"", headers={}, choices=1)
    return Asked(ask, read, verdict, doomed)


def found(
    rows: Sequence[Row], one: Asked, sent: int = 4, *, traces: Sequence[str] = ("t",)
) -> Findings:
    page = said(sent)
    served = Served(page.status, page.headers, page.body, page.whole, call_id="c", worker="w0")
    return compare(
        [one], Books({row.trace_id: row for row in rows}, {"c": traces}, {"c": [served]})
    )


def test_comparison_accepts_a_correct_row() -> None:
    findings = found([ROW], asked(said(4)))
    assert (findings.problems, findings.cut_off, findings.exact) == ([], [], 1)


@pytest.mark.parametrize(
    "wrong",
    [
        *(ROW._replace(key="ben"), ROW._replace(source="batch"), ROW._replace(worker="w1")),
        *(ROW._replace(outcome="error"), ROW._replace(prompt_tokens=4), ROW._replace(counted=1)),
        *(ROW._replace(completion_tokens=3), ROW._replace(cached_tokens=1)),
    ],
)
def test_comparison_reports_a_wrong_row(wrong: Row) -> None:
    assert found([wrong], asked(said(4))).problems


def test_comparison_reports_a_missing_or_duplicate_call() -> None:
    assert found([], asked(said(4)), traces=()).problems
    assert found([], asked(said(4))).problems
    twice = [ROW, ROW._replace(trace_id="u")]
    assert found(twice, asked(said(4)), traces=("t", "u")).problems
    assert found(twice, asked(said(4))).problems
    refused = ROW._replace(trace_id="u", outcome="error", completion_tokens=0)
    assert found([ROW, refused], asked(said(4))).problems


CUT_OFF = asked(said(1, whole=False), "killed", doomed=True)
RECOVERED = Row("t", "ada", "sim", "w0", "realtime", "error", 0, 2, 0, 1)


def test_comparison_needs_a_row_but_no_trace_of_a_call_cut_off_by_a_kill() -> None:
    findings = found([RECOVERED], CUT_OFF, traces=())
    assert (findings.problems, findings.recovered, findings.noted) == ([], 1, 2)
    early = RECOVERED._replace(worker="", completion_tokens=0)
    assert found([early], CUT_OFF, traces=()).problems == []
    assert found([], CUT_OFF, traces=()).problems
    assert found([], asked(said(4), doomed=True), traces=()).problems


def test_comparison_reports_a_row_of_a_killed_call_that_no_worker_received() -> None:
    findings = compare([CUT_OFF], Books({}, {}, {}))
    assert (findings.problems, findings.cut_off) == ([], [CUT_OFF])
    assert compare([CUT_OFF], Books({"t": RECOVERED}, {}, {})).problems, "no worker said so much"


@pytest.mark.parametrize(
    "wrong",
    [
        *(RECOVERED._replace(key="ben"), RECOVERED._replace(prompt_tokens=1)),
        *(RECOVERED._replace(source="eval"), RECOVERED._replace(worker="w1")),
        *(RECOVERED._replace(completion_tokens=5), RECOVERED._replace(outcome="success")),
    ],
)
def test_comparison_reports_a_wrong_row_of_a_killed_call(wrong: Row) -> None:
    assert found([wrong], CUT_OFF, traces=()).problems
    twice = [RECOVERED, wrong._replace(trace_id="u")]
    assert found(twice, CUT_OFF, traces=()).problems


@pytest.mark.parametrize(("counted", "right"), [(0, False), (1, True), (2, True), (3, False)])
def test_comparison_bounds_partial_counts_by_tokens_read_and_sent(
    counted: int, right: bool
) -> None:
    row = ROW._replace(outcome="abort", completion_tokens=counted, counted=1)
    problems = found([row], asked(said(1, whole=False), "left"), sent=2).problems
    assert (problems == []) is right


def test_tokens_of_reads_usage_or_counts_token_ids() -> None:
    assert tokens_of(said(4), 1) == Tokens(5, 2, told=True)
    assert tokens_of(said(2), 1) == Tokens(5, 2)
    assert tokens_of(said(0), 1) == Tokens(None, 0)
    assert tokens_of(Said(500, {}, bytearray(b'{"usage": {}}')), 1) == Tokens(None, 0)


def test_verdict_of_classifies_each_ending_of_a_call() -> None:
    assert verdict_of(said(4), gone=False, doomed=True) == "whole"
    assert verdict_of(Said(503, whole=True), gone=False, doomed=False) == "error"
    assert verdict_of(said(2, whole=False), gone=False, doomed=False) == "broken"
    assert verdict_of(said(2, whole=False), gone=False, doomed=True) == "killed"
    assert verdict_of(said(2, whole=False), gone=True, doomed=True) == "left"
    told = Said(200, {}, bytearray(b"event: error\ndata: {}\n\n"), whole=True)
    assert verdict_of(told, gone=False, doomed=False) == "broken"


COUNTS = "requests, successes, errors, aborts, prompt_tokens, completion_tokens"


@pytest.fixture
def sums() -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(":memory:") as db:
        for table in ("usage_days", "usage_totals"):
            db.execute(f"CREATE TABLE {table} (key, {COUNTS})")
            db.execute(f"INSERT INTO {table} VALUES ('ada', 1, 1, 0, 0, 5, 2)")
        yield db
    db.close()


def test_check_sums_reports_sums_that_differ_from_the_rows(sums: sqlite3.Connection) -> None:
    assert check_sums(sums, [ROW]) == []
    assert len(check_sums(sums, [ROW, ROW])) == 2
    sums.execute("UPDATE usage_days SET errors = 1")
    assert len(check_sums(sums, [ROW])) == 1
