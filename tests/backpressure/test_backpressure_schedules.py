"""Whatever happens, and when: no slot is taken twice, none is lost, and nobody waits in vain."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.gateways.event_loop import Stage
from support.workers.holding_worker import Fleet, HeldPool, fleet

from gateway import Call, ChooseAgain, NoWorker, StateKey, Worker, hookimpl
from gateway.config import Worker as WorkerConfig
from gateway.testing import RecordedCall

AGAIN: StateKey[bool] = StateKey("again")
NAMES = ("one", "two", "three", "four")
MODELS = {"one": ("a",), "two": ("a", "b"), "three": ("b",), "four": ()}
LIMITS = {
    "max_in_flight_per_worker": 2,
    "max_in_flight_by_worker": {"two": 1, "four": 3},
    "max_in_flight": 5,
}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Turns of the loop are all the time that there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.pipeline.proxy.CHOICE_PAUSE", 0)
        for name in ("MIN_PAUSE", "MAX_PAUSE", "STEP"):
            patch.setattr(f"gateway_plugins.backpressure.pauses.{name}", 0)
        yield


def settings_of(name: str) -> WorkerConfig:
    return WorkerConfig(url=f"http://{name}", worker_id=name, models=MODELS[name])


class Bars:
    """Another plugin that leaves workers out, for ever or as the call's `again` changes."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        barred = call.header("x-barred")
        return [one for one in workers if one.id != barred] if barred else workers


class Fickle:
    """Another plugin that takes its time to pick one, thinks again, or fails at it."""

    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        match call.header("x-pick"):
            case "last":
                return workers[-1]
            case "slow":
                for _ in range(3):
                    await asyncio.sleep(0)
            case "again" if call.state.get(AGAIN) is None:
                call.state[AGAIN] = True
                await asyncio.sleep(0)
                raise ChooseAgain
            case "refuse":
                await asyncio.sleep(0)
                raise NoWorker("refused by a plugin")
        return workers[0]


class Schedules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage().__enter__()
        manager: AbstractAsyncContextManager[Fleet] = fleet(
            settings_of("one"),
            settings_of("two"),
            plugins=(Bars, Fickle),
            queue={"max_length": 1000, "max_wait": 1e6},
            priority_for_all=True,
            **LIMITS,
        )
        self.fleet = self.stage.enter(manager)
        self.workers = self.fleet.gateway.workers
        self.known = list(self.workers.all)

    def step(self, turns: int, action: Callable[[], object] = lambda: None) -> None:
        """Do it in the loop, and go on for so many turns of that, looking at each."""

        async def act() -> None:
            action()
            for _ in range(turns):
                await asyncio.sleep(0)
                self.look()

        self.stage.run(act())

    def look(self) -> None:
        for slots in (self.workers.slots, *(one.slots for one in self.known)):
            assert slots.used >= 0
            assert slots.limit is None or slots.used <= slots.limit
        assert self.workers.slots.used == sum(one.slots.used for one in self.known)

    @rule(
        session=st.sampled_from([None, "s", "t"]),
        principal=st.sampled_from(["", "p", "q"]),
        priority=st.sampled_from(["0", "0", "1"]),
        model=st.sampled_from(["a", "b"]),
        pick=st.sampled_from(["", "last", "slow", "again", "refuse"]),
        barred=st.sampled_from(["", "", "one", "two"]),
        turns=st.integers(0, 4),
        many=st.integers(1, 4),
    )
    def arrive(
        self,
        session: str | None,
        principal: str,
        priority: str,
        model: str,
        pick: str,
        barred: str,
        turns: int,
        many: int,
    ) -> None:
        def begin() -> None:
            for _ in range(many):
                self.fleet.call(
                    session=session,
                    model=model,
                    x_principal=principal,
                    x_priority=priority,
                    x_pick=pick,
                    x_barred=barred,
                )

        self.step(turns, begin)

    @precondition(lambda self: self.fleet.undecided())
    @rule(
        worker=st.integers(0, 9),
        place=st.integers(0, 9),
        how=st.sampled_from(["answer", "answer", "refuse", "fail"]),
        turns=st.integers(0, 4),
    )
    def end(self, worker: int, place: int, how: str, turns: int) -> None:
        self.step(turns, lambda: self.decide(worker, place, how))

    def decide(self, worker: int, place: int, how: str) -> None:
        holding = list(self.fleet.undecided())
        pool = holding[worker % len(holding)].pool
        assert isinstance(pool, HeldPool)
        {"answer": pool.answer_next, "refuse": pool.refuse_next, "fail": pool.fail_next}[how](place)

    @precondition(lambda self: self.alive())
    @rule(which=st.integers(0, 99), cancel=st.booleans(), turns=st.integers(0, 4))
    def leave(self, which: int, cancel: bool, turns: int) -> None:
        alive = self.alive()
        self.step(turns, lambda: self.fleet.leave(alive[which % len(alive)], cancel=cancel))

    @rule(name=st.sampled_from(NAMES), turns=st.integers(0, 4))
    def come_or_go(self, name: str, turns: int) -> None:
        def act() -> None:
            if self.workers.find(name) is None:
                self.known.append(self.fleet.add(settings_of(name)))
            else:
                self.workers.remove(name)

        self.step(turns, act)

    @rule(name=st.sampled_from(NAMES), turns=st.integers(0, 4))
    def fall_ill_or_recover(self, name: str, turns: int) -> None:
        def act() -> None:
            worker = self.workers.find(name)
            if worker is not None and worker.fit:
                worker.mark("test", "down", "as the test wants it")
            elif worker is not None:
                worker.clear("test")

        self.step(turns, act)

    @rule()
    def rest(self) -> None:
        """Many calls that choose one after the other take their turns; what is promised is used."""
        for _ in range(10):
            self.step(40)
            if not self.fleet.queue.report().promised:
                break
        self.nobody_waits_in_vain()

    def alive(self) -> list[RecordedCall]:
        return [call for call, task in self.fleet.running.items() if not task.done()]

    def nobody_waits_in_vain(self) -> None:
        """Once nothing happens by itself any more."""
        held = sum(self.fleet.undecided().values())
        for call in self.waiting():
            for worker in self.workers.serving(call.model).fit:
                if worker not in call.tried and worker.id != call.header("x-barred"):
                    assert worker.slots.full, f"{call.id} waits though {worker.id} has room"
        assert self.queue_length() == len(self.waiting())
        assert held + self.held_elsewhere() == self.workers.slots.used
        assert self.fleet.queue.report().promised == 0

    def waiting(self) -> list[RecordedCall]:
        return [c for c in self.alive() if not c.attempts or c.attempts[-1].ended is not None]

    def held_elsewhere(self) -> int:
        """Calls at workers that were removed."""
        gone = [one for one in self.known if one not in self.workers.all]
        return sum(one.pool.undecided for one in gone if isinstance(one.pool, HeldPool))

    def queue_length(self) -> int:
        return self.fleet.queue.report().length

    @invariant()
    def counts_are_within_limits(self) -> None:
        self.look()

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.stage.__exit__(None, None, None)

    def finish(self) -> None:
        """All workers come back; then every call ends, and leaves nothing behind."""
        self.step(0, self.bring_back)
        self.rest()
        while alive := self.alive():
            self.step(0, self.answer_all)
            self.rest()
            assert len(self.alive()) < len(alive)
        assert self.workers.slots.used == 0
        assert all(not worker.slots.used for worker in self.known)
        assert self.queue_length() == 0
        assert not self.fleet.gateway.proxy.in_flight

    def bring_back(self) -> None:
        for name in NAMES:
            worker = self.workers.find(name)
            if worker is None:
                self.known.append(self.fleet.add(settings_of(name)))
            else:
                worker.clear("test")

    def answer_all(self) -> None:
        for worker in self.known:
            assert isinstance(worker.pool, HeldPool)
            while worker.pool.undecided:
                worker.pool.answer_next()


Schedules.TestCase.settings = settings(max_examples=20, stateful_step_count=30)
TestSchedules = Schedules.TestCase
