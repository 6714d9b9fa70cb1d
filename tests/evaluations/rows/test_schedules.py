"""Random orders of what can happen to a job: its rows agree with each other after each step."""

from gateway_plugins.evaluations.engine import resume
from gateway_plugins.evaluations.rows import items, jobs
from gateway_plugins.evaluations.rows.items import (
    CANCELED,
    COMPLETED,
    FAILED,
    QUEUED,
    STATES,
    WAITING,
    End,
)
from gateway_plugins.evaluations.rows.jobs import OVER, Job, NewJob, Run
from gateway_plugins.evaluations.rows.schema import MIGRATIONS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.records.databases import memory_database

NOW = 1_700_000_000.0
TOTAL = 5
RUNS = st.integers(0, 1)


class Schedule(RuleBasedStateMachine):
    """A job of two evaluations, whose steps come in any order, as with kills and cancellations."""

    def __init__(self) -> None:
        super().__init__()
        self.db = memory_database([MIGRATIONS])
        self.ids: set[str] = set()

    def teardown(self) -> None:
        self.db.close()

    @initialize()
    def submit(self) -> None:
        new = NewJob(
            id="eval_1",
            owner="ada",
            principal=None,
            model="m",
            created=NOW,
            names=["a", "b"],
            named=True,
            arguments={"x": "1"},
            is_base_override=None,
            is_base=False,
            reasoning=False,
            priority=0,
        )
        jobs.add(self.db, new)

    @property
    def job(self) -> Job:
        found = jobs.job_of(self.db, "eval_1", "ada")
        assert found is not None
        return found

    def run_at(self, place: int) -> Run:
        return jobs.runs_of(self.db, self.job.number)[place]

    @rule(place=RUNS)
    def prepare(self, place: int) -> None:
        run = self.run_at(place)
        if run.state == "pending":
            jobs.move(self.db, run, "preparing", NOW)
        elif run.state == "preparing":  # perhaps once more, after a kill
            items.clear(self.db, run.number)
            items.add(self.db, run.number, [(n, n * 10, 10) for n in range(TOTAL)])
            items.prepared(self.db, run.number, TOTAL, 2)

    @rule(place=RUNS)
    def begin(self, place: int) -> None:
        run = self.run_at(place)
        if run.state == "preparing" and run.total is not None:
            jobs.move(self.db, run, "running", NOW)

    @rule(place=RUNS, count=st.integers(1, TOTAL))
    def queue(self, place: int, count: int) -> None:
        run = self.run_at(place)
        if run.state == "running":
            waiting = items.in_state(self.db, run.number, WAITING, count)
            for item in waiting:
                assert item.id("eval_1", place) not in self.ids
                self.ids.add(item.id("eval_1", place))
            items.queued(self.db, run.number, [item.place for item in waiting])

    @rule(place=RUNS, count=st.integers(1, TOTAL), well=st.booleans())
    def end(self, place: int, count: int, well: bool) -> None:
        run = self.run_at(place)
        found = items.in_state(self.db, run.number, QUEUED, count)
        if run.state == "running" and found:
            state = COMPLETED if well else FAILED
            answer = b'{"a": 1}' if well else None
            ends = [End(place=one.place, state=state, answer=answer) for one in found]
            items.end(self.db, run.number, ends)

    @rule(place=RUNS)
    def score(self, place: int) -> None:
        run = self.run_at(place)
        if run.state == "scoring":
            assert jobs.move(self.db, run, "completed", NOW)
            jobs.set_metrics(self.db, run.number, {"n": 1.0})
        elif run.state == "running" and not self.open(run):
            items.tally(self.db, run.number)
            assert jobs.move(self.db, run, "scoring", NOW)

    def open(self, run: Run) -> int:
        counts = items.counts(self.db, run.number)
        return counts["waiting"] + counts["queued"]

    @rule(place=RUNS)
    def fail(self, place: int) -> None:
        run = self.run_at(place)
        if not run.is_over:
            assert jobs.move(self.db, run, "failed", NOW, "why")

    @rule()
    def forget(self) -> None:
        items.forget(self.db, NOW + 1)

    @rule()
    def cancel(self) -> None:
        unfinished = [run for run in jobs.runs_of(self.db, self.job.number) if not run.is_over]
        assert jobs.cancel(self.db, self.job, NOW) == len(unfinished)

    @rule()
    def take_out(self) -> None:
        for run, _, _, item in items.to_cancel(self.db, 3):
            items.end(self.db, run, [End(place=item.place, state=CANCELED)])

    @rule()
    def resume(self) -> None:
        resume(self.db, self.job, NOW)

    @invariant()
    def job_agrees_with_its_evaluations(self) -> None:
        found = jobs.job_of(self.db, "eval_1")
        if found is None:
            return
        runs = jobs.runs_of(self.db, found.number)
        over = all(run.is_over for run in runs)
        assert (found.state in OVER) == (found.ended is not None) == over
        assert all((run.ended is not None) == run.is_over for run in runs)
        assert jobs.unfinished_of(self.db, "ada") == (not over)
        assert set(jobs.unfinished(self.db)) == {run.number for run in runs if not run.is_over}
        failed = [run for run in runs if run.state == "failed"]
        assert bool(failed) == (found.error is not None)

    @invariant()
    def items_are_complete_and_in_their_places(self) -> None:
        found = jobs.job_of(self.db, "eval_1")
        for run in [] if found is None else jobs.runs_of(self.db, found.number):
            counts = items.counts(self.db, run.number)
            page = items.page(self.db, run.number, -1, 100)
            assert [one.place for one in page] == list(range(len(page)))
            assert len(page) == sum(counts.values())
            assert len(page) == (TOTAL if run.has_items else 0)
            answered = items.answers(self.db, run.number, 0, TOTAL)
            done = {one.place for one in page if STATES[one.state] == "completed"}
            assert done <= answered.keys()
            if run.state == "completed":
                assert run.total == TOTAL == (run.completed or 0) + (run.failed or 0)
                assert jobs.metrics_of(self.db, run.number) == {"n": 1.0}


Schedule.TestCase.settings = settings(max_examples=25, stateful_step_count=40)
TestSchedules = Schedule.TestCase
