"""A short soak of a whole gateway; and that its books and its judgement see what is wrong."""

import math
import sqlite3
from collections.abc import Iterator, Sequence
from random import Random

import msgspec
import pytest
from accounting.tap import Said
from soak.books import Books
from soak.calls import CHAT, Ask
from soak.conduct import Report, run
from soak.engine import Answer, Request
from soak.facts import Asked, Fact, Served
from soak.hearing import heard
from soak.judging import Seen, judge
from soak.logs import Log
from soak.plan import Plan
from soak.sampling import MIB, Sample, metrics_of, slope_of
from support.records.usage_rows import Row

SHORT = Plan(
    seconds=2.5,
    callers=6,
    steady=2,
    troubled=1,
    still=20,
    idle=3,
    idle_pause=0.1,
    spell=0.5,
    pause=0.15,
    sampled=0.5,
    settled=5.0,
    keepalive=0.5,
    rate=80,
    warming=0.3,
    first_byte=0.5,
)


@pytest.mark.slow
async def test_short_soak_finds_no_problems() -> None:
    report = await run(SHORT)
    assert report.problems == []
    assert all(check.held for check in report.checks)
    assert_all_kinds_of_things_went_on(report)


def assert_all_kinds_of_things_went_on(report: Report) -> None:
    assert report.tally.compared == sum(report.verdicts.values()) > SHORT.rate
    assert report.tally.exact > SHORT.rate / 2
    assert report.verdicts.keys() >= {"answered whole", "answered left"}
    assert report.verdicts.keys() & {"answered error", "answered broken"}
    assert report.operations
    assert len(report.samples) > 3


# the books see what is wrong

KEEP = 100.0
ROW = Row("ab", "ada", "soak", "w", "realtime", "success", 5, 2, 1, 0)
ASKED = Asked("c", "ada", "answered", "whole", 200, pieces=2)
SERVED = Served("c", "w", ran=True, whole=True, told=True, prompt=5, completion=2, cached=1)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(":memory:") as db:
        columns = "key, model, worker, source, outcome"
        tokens = "prompt_tokens, completion_tokens, cached_tokens, counted"
        db.execute(
            f"CREATE TABLE usage_calls (number INTEGER PRIMARY KEY, id, {columns}, {tokens})"
        )
        db.execute("CREATE TABLE traces (trace_id)")
        yield db
    db.close()


def problems_of(
    db: sqlite3.Connection,
    rows: Sequence[Row] = (ROW,),
    asked: Asked = ASKED,
    served: Sequence[Served] = (SERVED,),
    *,
    ids: Sequence[str] = ("ab",),
    traces: Sequence[str] = ("ab",),
) -> list[str]:
    outcomes = {"success": 0, "error": 1, "abort": 2}
    for row in rows:
        values = (bytes.fromhex(row.trace_id), *row[1:5], outcomes[row.outcome], *row[6:])
        db.execute(f"INSERT INTO usage_calls VALUES (NULL, {', '.join('?' * 10)})", values)
    db.executemany("INSERT INTO traces VALUES (?)", [(one,) for one in traces])
    books = Books(0.0, KEEP)
    facts: list[Fact] = [*served, asked]
    for fact in facts:
        books.take(fact)
    books.ended([("c", one) for one in ids])
    books.compare(db, all_of_them=True)
    return books.problems


def test_books_accept_a_correctly_counted_call(db: sqlite3.Connection) -> None:
    assert problems_of(db) == []


@pytest.mark.parametrize(
    "wrong",
    [
        *(ROW._replace(key="ben"), ROW._replace(source="batch"), ROW._replace(worker="v")),
        *(ROW._replace(outcome="error"), ROW._replace(prompt_tokens=4), ROW._replace(counted=1)),
        *(ROW._replace(completion_tokens=3), ROW._replace(cached_tokens=0)),
    ],
)
def test_books_report_a_wrong_row(db: sqlite3.Connection, wrong: Row) -> None:
    assert problems_of(db, [wrong])


def test_books_report_a_missing_row_and_a_row_without_a_call(db: sqlite3.Connection) -> None:
    assert problems_of(db, [])
    assert problems_of(db, [ROW, ROW._replace(trace_id="cd")])
    books = Books(0.0, KEEP)
    books.ended([("unasked", "ef")])
    books.compare(db, all_of_them=True)
    assert books.problems


def test_books_report_a_call_that_ended_or_ran_twice(db: sqlite3.Connection) -> None:
    assert problems_of(db, [ROW, ROW._replace(trace_id="cd")], ids=["ab", "cd"])
    assert problems_of(db, served=[SERVED, SERVED])


def test_books_report_a_call_without_its_trace(db: sqlite3.Connection) -> None:
    assert problems_of(db, traces=[])


def test_books_report_a_row_for_a_call_with_an_unknown_key(db: sqlite3.Connection) -> None:
    asked = msgspec.structs.replace(ASKED, kind="unknown", verdict="error", status=401)
    assert problems_of(db, [ROW], asked, [])


@pytest.mark.parametrize(("counted", "right"), [(1, False), (2, True), (3, True), (4, False)])
def test_books_bound_partial_counts_by_tokens_read_and_sent(
    db: sqlite3.Connection, counted: int, right: bool
) -> None:
    row = ROW._replace(outcome="abort", completion_tokens=counted, counted=1)
    asked = msgspec.structs.replace(ASKED, verdict="left")
    served = msgspec.structs.replace(SERVED, whole=False, told=False, completion=3)
    assert (problems_of(db, [row], asked, [served]) == []) is right


def test_books_compare_a_call_only_after_it_has_settled(db: sqlite3.Connection) -> None:
    for settled, compared in ((KEEP, 0), (0.0, 1)):
        books = Books(settled, KEEP)
        books.take(ASKED)
        books.compare(db)
        assert books.tally.compared == compared


def test_books_report_a_trace_deleted_too_early(db: sqlite3.Connection) -> None:
    books = Books(0.0, KEEP)
    problems_of(db)
    books.take(SERVED)
    books.take(ASKED)
    books.ended([("c", "ab")])
    books.compare(db, all_of_them=True)
    assert (books.check_kept(db), books.problems) == (1, [])
    db.execute("DELETE FROM traces")
    books.check_kept(db)
    assert books.problems


# so do the callers

REQUEST = {"messages": [{"role": "user", "content": "a b"}], "n": 2}


def answered(*, stream: bool, cut: int = 0) -> str:
    body = msgspec.json.encode({**REQUEST, "stream": stream})
    ask = Ask(call_id="c", key="ada", path=CHAT, body=body)
    answer = Answer("c", msgspec.json.decode(body, type=Request), Random(1))
    pieces = [piece.data for piece in answer.pieces()]
    data = b"".join(pieces[:cut] + pieces[cut + 1 :] if cut else pieces)
    kind = b"text/event-stream" if stream else b"application/json"
    said = Said(200, {b"content-type": kind}, bytearray(data if stream else answer.plain()), True)
    return heard(ask, said, "whole").fault


@pytest.mark.parametrize("stream", [False, True])
def test_soak_caller_finds_no_fault_in_a_whole_response(stream: bool) -> None:
    assert answered(stream=stream) == ""


@pytest.mark.parametrize("cut", [1, 2, -1])
def test_soak_caller_finds_a_missing_event_in_a_stream(cut: int) -> None:
    pieces = len(Answer("c", msgspec.convert(REQUEST, Request), Random(1)).pieces())
    assert answered(stream=True, cut=cut % pieces)


# what is judged


def sample(at: float, rss: float = 60.0, **more: int) -> Sample:
    given = {"fds": 20, "tasks": 9, "connections": 0, "wal": 0, **more}
    size = int(rss * MIB)
    return Sample(at=at, rss=size, pss=size, threads=5, cpu=at / 2, database=0, **given)


def failed(**changes: object) -> list[str]:
    metrics = ("gateway_traces_total", "gateway_usage_calls_total", "gateway_requests_total")
    seen = Seen(
        plan=SHORT,
        before=sample(0),
        still=sample(0, in_flight=20),
        after=sample(1300),
        samples=[sample(float(at)) for at in range(0, 1300, 5)],
        operations={},
        metrics=dict.fromkeys(metrics, 0.0),
        integrity="ok",
        exit_status=0,
    )
    books, log = Books(0.0, KEEP), Log()
    checks = judge(msgspec.structs.replace(seen, **changes), books, log)
    return [check.name for check in checks if not check.held]


def test_judge_passes_all_checks_of_a_clean_soak() -> None:
    assert failed() == []


@pytest.mark.parametrize(
    ("grown", "problems"), [(1.0, []), (3.0, ["memory: no growth"]), (6.0, ["memory: no growth"])]
)
def test_judge_reports_memory_growth(grown: float, problems: list[str]) -> None:
    samples = [sample(float(at), 60 + grown * at / 1300) for at in range(0, 1300, 5)]
    assert failed(samples=samples) == problems


@pytest.mark.parametrize(("seconds", "judged"), [(59, False), (100, True), (599, True)])
def test_judge_allows_more_memory_growth_in_a_short_soak(seconds: int, judged: bool) -> None:
    for grown, problems in ((20.0, []), (60.0, ["memory: no growth"] if judged else [])):
        rising = [sample(at, 60 + grown * at / seconds) for at in range(seconds + 1)]
        assert failed(samples=rising) == problems


def test_judge_ignores_memory_growth_during_warm_up() -> None:
    assert failed(samples=[sample(at, 60 + min(at, 290) / 30) for at in range(0, 1300, 5)]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"after": sample(1300, fds=60)},
        {"after": sample(1300, tasks=60)},
        {"after": sample(1300, connections=1)},
        {"after": sample(1300, in_flight=1)},
        {"samples": [sample(0), sample(1300), sample(1400, wal=129 * MIB)]},
        {"wal_closed": 2 * MIB},
        {"integrity": "*** in database main ***"},
        {"verified": ["verify: a call"]},
        {"exit_status": 1},
        {"took": 60.0},
        {"young": 1},
        {"overdue": 1},
        {"before": sample(0, 81.0)},
    ],
)
def test_judge_reports_leaked_resources_and_a_bad_shutdown(changes: dict[str, object]) -> None:
    assert len(failed(**changes)) == 1


def test_slope_of_is_the_median_and_ignores_an_outlier() -> None:
    line = [(x, 2.0 * x) for x in range(50)]
    assert slope_of(line) == (2, 2)
    assert slope_of([*line, (50, 1e9)]).median == 2
    assert slope_of([(0, 1)]) == slope_of([]) == (0, -math.inf)


def test_slope_of_finds_no_certain_slope_in_noise() -> None:
    chance = Random(1)
    noises = ([(x, chance.gauss(0, 5)) for x in range(40)] for _ in range(100))
    assert sum(slope_of(noise).least > 0 for noise in noises) <= 6
    rising = [(x, chance.gauss(x, 5)) for x in range(40)]
    assert slope_of(rising).least > 0.5


SPOILT = (
    b'{"time":"2026","level":"error","logger":"gateway","message":"the reload failed, nothing was'
    b' changed: soak/gateway.yaml:1: not YAML: no"}'
)


def test_metrics_of_sums_each_metric_over_its_labels() -> None:
    text = b'# HELP a_total x\na_total{k="1 {"} 2.0\na_total{k="2"} 3.0\nb 1e+03\n'
    assert metrics_of(text) == {"a_total": 5.0, "b": 1000.0}


@pytest.mark.parametrize(
    ("line", "grave"),
    [
        (b'{"time":"2026","level":"error","logger":"gateway","message":"it broke"}', 1),
        (b'{"time":"2026","level":"info","logger":"gateway","message":"x","errors":[{}]}', 1),
        (b"Traceback (most recent call last):", 1),
        (b'{"time":"2026","level":"warning","logger":"gateway","message":"worker 5 ejected"}', 0),
        (SPOILT, 0),
        (b'{"time":1794000000.0,"call_id":"c"}', 0),
    ],
)
def test_soak_log_keeps_errors_and_tracebacks_as_grave(line: bytes, grave: int) -> None:
    log = Log()
    log.take(line)
    assert len(log.grave) == grave
