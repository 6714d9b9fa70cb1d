"""Whatever fails in which order, no two workers that get calls have different weights."""

from typing import Literal

import msgspec
from gateway_plugins.weights.trl.fleet import Fleet
from gateway_plugins.weights.trl.paths import Step
from hypothesis import given
from hypothesis import strategies as st

from gateway import Worker, Workers
from gateway.config import Config
from gateway.config import Worker as WorkerConfig

NAMES = ("a", "b", "c")

Which = frozenset[str]


class Act(msgspec.Struct, frozen=True):
    """A step that the workers `took`, or the step before once more, or a worker that restarts."""

    what: Literal["begin", "load", "end", "again", "restart"]
    took: Which


acts = st.builds(
    Act,
    what=st.sampled_from(["begin", "load", "load", "end", "again", "restart"]),
    took=st.frozensets(st.sampled_from(NAMES)) | st.just(frozenset(NAMES)),
)


class Model:
    """What the workers' weights really are: the loads on top of the last whole update."""

    def __init__(self) -> None:
        self.weights: dict[str, tuple[object, ...]] = dict.fromkeys(NAMES, ("first",))
        self.taken: dict[str, set[int]] = {name: set() for name in NAMES}
        self.loads: set[int] = set()
        self.within = False
        self.number = 0

    def step(self, what: str, took: Which) -> None:
        if took and (what == "begin" or (what == "load" and not self.within)):
            self.within, self.loads = True, set()
            self.taken = {name: set() for name in NAMES}
        self.number += 1
        if what == "load" and took:
            self.loads.add(self.number)
        for name in took:
            self.take(what, name)
        if what == "end" and took:
            self.within = False

    def take(self, what: str, name: str) -> None:
        if what == "load":
            self.taken[name].add(self.number)
            self.weights[name] += (self.number,)
        if what == "end" and self.loads and self.taken[name] == self.loads:
            self.weights[name] = (f"update {max(self.loads)}",)

    def restart(self, name: str) -> None:
        self.weights[name] = ("first",)
        self.taken[name] = {-1}


class Run:
    """The same done to a Fleet and to the model."""

    def __init__(self) -> None:
        urls = (WorkerConfig(url=f"http://{name}:1", worker_id=name) for name in NAMES)
        self.workers = Workers(Config(workers=tuple(urls)))
        self.fleet = Fleet(self.workers, "trl")
        self.workers.changed.append(self.fleet.follow)
        self.model = Model()
        self.last: tuple[Literal["begin", "load", "end"], Which] | None = None

    def act(self, act: Act) -> None:
        if act.what == "restart":
            self.restart(act.took)
        elif act.what == "again":
            self.again(act.took)
        else:
            self.last = (act.what, act.took)
            missed = {worker: "no" for worker in self.workers.all if worker.id not in act.took}
            self.fleet.note(Step(act.what), self.named(act.took), missed)
            self.model.step(act.what, act.took)

    def again(self, which: Which) -> None:
        if self.last is None or not self.last[1]:
            return
        what, had = self.last
        took = which - had
        self.fleet.note_again(Step(what), self.named(took))
        for name in took:
            self.model.take(what, name)
        self.last = (what, had | took)

    def restart(self, which: Which) -> None:
        for worker in self.named(which):
            worker.mark("probe", "down", "gone")
            self.model.restart(worker.id)
            worker.clear("probe")

    def named(self, names: Which) -> list[Worker]:
        return [worker for worker in self.workers.all if worker.id in names]

    def check(self) -> None:
        fit = [worker.id for worker in self.workers.serving().fit]
        assert len({self.model.weights[name] for name in fit}) <= 1, (fit, self.model.weights)


@given(st.lists(acts, max_size=14))
def test_fit_workers_always_have_the_same_weights(script: list[Act]) -> None:
    run = Run()
    for act in script:
        run.act(act)
        run.check()


@given(st.lists(acts, max_size=8))
def test_complete_update_makes_every_worker_fit_again(script: list[Act]) -> None:
    run = Run()
    everybody = frozenset(NAMES)
    for act in (*script, *(Act(what, everybody) for what in ("begin", "load", "end"))):
        run.act(act)
    assert len(run.workers.serving().fit) == len(NAMES)
    assert {run.fleet.of(worker).epoch for worker in run.workers.all} == {run.fleet.epoch}
    run.check()
