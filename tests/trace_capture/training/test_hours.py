"""Counts by hour: each trace once, whoever stored it and whatever was deleted meanwhile."""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.recording.record import Record
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from gateway_plugins.trace_capture.training import hours
from gateway_plugins.trace_capture.training.shares import Share, Wanted, training
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records.databases import memory_database
from support.records.facts import calls, fact_record
from support.records.trace_records import File, opened

from gateway import Database, Reason
from gateway.storage.sqlite.file import open_for_writing
from gateway.storage.sqlite.migrate import migrate
from gateway.storage.sqlite.writer import change

ALL = Wanted(first=0, last=1_000_000)

steps = st.tuples(st.sampled_from(["store", "store", "delete", "sweep", "count"]), st.booleans())


def share_of(made: list[Record]) -> Share:
    """The counts of these calls, computed one by one."""
    sessions = {one.session_id for one in made if one.session_id is not None}
    bad = {one.session_id for one in made if one.head.reasons}
    good = [one for one in made if not one.head.reasons]
    return Share(
        calls=len(made),
        complete_calls=len(good),
        sessions=len(sessions),
        complete_sessions=len(sessions - bad),
        sampled_tokens=3 * len(made),
        trainable_tokens=3 * len(good),
    )


def check(db: Database, made: list[Record], wanted: Wanted = ALL) -> None:
    """Compare all that is told with the calls themselves."""
    found = training(db, wanted)
    names = ("harness", "worker", "model")
    made = [
        one
        for one in made
        if wanted.first <= one.timestamp // 3600 <= wanted.last
        and all(getattr(wanted, name) in (None, name_of(one, name)) for name in names)
    ]
    assert found.total == share_of(made)
    for name, groups in zip(names, (found.harnesses, found.workers, found.models), strict=True):
        told = {one.name: plain(one) for one in groups}
        assert told == {
            value: share_of([one for one in made if name_of(one, name) == value])
            for value in {name_of(one, name) for one in made}
        }
    assert {one.at: plain(one) for one in found.hours} == {
        at: share_of([one for one in made if one.timestamp // 3600 * 3600 == at])
        for at in {one.timestamp // 3600 * 3600 for one in made}
    }
    reasons = [reason for one in made for reason in hours.causes(one.head.reasons)]
    assert {one.reason: (one.calls, one.tokens) for one in found.reasons} == {
        reason: (reasons.count(reason), 3 * reasons.count(reason)) for reason in reasons
    }
    assert [one.calls for one in found.reasons] == sorted(map(reasons.count, {*reasons}))[::-1]


def name_of(record: Record, name: str) -> str:
    return {"harness": record.harness, "worker": record.head.worker or "", "model": record.model}[
        name
    ]


def plain(share: Share) -> Share:
    return Share(**{name: getattr(share, name) for name in Share.__struct_fields__})


@settings(deadline=None, max_examples=15)
@given(st.lists(calls, max_size=12), st.lists(steps, max_size=30))
def test_each_trace_is_counted_once_whoever_stored_it(
    called: list[tuple[Any, ...]], steps: list[tuple[str, bool]]
) -> None:
    made = [fact_record(*one) for one in called]
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as one:
        path = Path(folder, "traces.db")
        with closing(open_for_writing(path, "process", [MIGRATIONS])) as db:
            files, left = (one, File(db)), list(made)
            for step, which in steps:
                file = files[which]
                if step == "store" and left:
                    file.store([left.pop(0)])
                elif step == "delete":
                    change(file.db, lambda db: queries.delete_sessions(db, ["a", "B"]))
                    file.sink.invalidate_cache()
                elif step == "sweep":
                    change(file.db, lambda db: queries.delete_sessionless(db, 1e9, 5))
                    file.sink.invalidate_cache()
                else:
                    change(file.db, hours.catch_up)
            one.store(left)
            change(db, hours.catch_up)
            check(db, made)


@settings(deadline=None)
@given(
    st.lists(calls, max_size=12),
    st.integers(0, 2),
    st.integers(0, 28),
    st.none() | st.sampled_from(["codex", "nobody"]),
    st.none() | st.just("w"),
)
def test_shares_are_of_the_hours_and_names_that_are_wanted(
    called: list[tuple[Any, ...]], first: int, last: int, harness: str | None, worker: str | None
) -> None:
    made = [fact_record(*one) for one in called]
    with closing(memory_database([MIGRATIONS])) as db:
        File(db).store(made)
        hours.catch_up(db)
        check(db, made, Wanted(first=first, last=last, harness=harness, worker=worker))


@pytest.mark.parametrize("cause", ["caller_gone", "worker_broke_off"])
def test_a_call_that_was_cut_off_counts_as_unfinished_only_if_nothing_else_explains_it(
    cause: Reason,
) -> None:
    ends: list[list[Reason]] = [
        [cause, "unfinished"],
        ["unfinished"],
        [cause, "unfinished", "redacted"],
    ]
    made = [fact_record("a", 5000.0, reasons=reasons) for reasons in ends]
    with closing(memory_database([MIGRATIONS])) as db:
        File(db).store(made)
        hours.catch_up(db)
        found = training(db, ALL)
    assert [(one.reason, one.calls) for one in found.reasons] == [
        (cause, 2),
        ("redacted", 1),
        ("unfinished", 1),
    ]


def test_counts_go_on_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hours, "SLICE", 2)
    made = [fact_record(f"s{number}", 5000.0) for number in range(5)]
    with closing(memory_database([MIGRATIONS])) as db:
        File(db).store(made)
        hours.catch_up(db)
        check(db, made)


def test_old_hours_and_too_many_rows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10_000 * hours.HOUR
    made = [fact_record(f"s{age}", now - age * hours.HOUR, f"m{age}") for age in (0, 5, 743, 745)]
    with closing(memory_database([MIGRATIONS])) as db:
        File(db).store(made)
        hours.catch_up(db)
        hours.forget_old(db, now)
        check(db, made[:3])
        monkeypatch.setattr(hours, "MAX_ROWS", 2)
        hours.forget_old(db, now)
        check(db, made[:2])
        assert [*db.select("SELECT count(*) FROM training_kinds")] == [(2,)]
        hours.catch_up(db)
        check(db, made[:2])


def test_counts_begin_with_the_version_that_has_them() -> None:
    before = msgspec.structs.replace(MIGRATIONS, steps=MIGRATIONS.steps[:-2])
    with closing(memory_database([before])) as db:
        db.execute(
            "INSERT INTO traces (number, trace_id, timestamp, complete, model, depth, ends,"
            " content) VALUES (7, 'x', 1, 1, 'm', 0, x'', x'')"
        )
        migrate(db, [MIGRATIONS])
        made = [fact_record("a", 5000.0)]
        File(db).store(made)
        hours.catch_up(db)
        check(db, made)
