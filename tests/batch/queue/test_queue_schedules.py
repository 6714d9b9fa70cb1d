"""Any order of changes to the queue, against a plain model of it."""

import math
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
from gateway_plugins.batch.queue import changes, reading, submission
from gateway_plugins.batch.queue.items import (
    CANCELED,
    COMPLETED,
    ERROR,
    QUEUED,
    RUNNING,
    Claimed,
    ItemError,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.records.a_queue import KEPT, LEASE, ORDER, AQueue, Process, check_counts

from gateway import TooManyRequests, Value

KEYS, MODELS, PRIORITIES = ("ada", "bob"), ("m", "n"), (-2, 0, 1)
PROCESSES = 3
LOST = ItemError("not_stored", "it is lost")
DELAY = 30.0

LaneName = tuple[str, str, int]
Turn = tuple[int, tuple[float, int]]


class Told(msgspec.Struct):
    """What the model knows of an item."""

    number: int
    id: str
    lane: LaneName
    submitted: float
    deadline: float
    state: int = QUEUED
    due: float = 0.0
    attempts: int = 0
    charged: int = 0
    runs_in: int | None = None
    answer: bytes | None = None
    expires: float | None = None


def is_own(told: Told, who: int, item: Claimed) -> bool:
    """Whether the item runs in this process, in this attempt."""
    return (told.state, told.runs_in, told.attempts) == (RUNNING, who, item.attempt)


class Schedules(RuleBasedStateMachine):
    """Processes that submit, claim and settle, that die, are stopped and go on."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.queue = AQueue(Path(self.folder.name, "gateway.db"))
        self.monotonic = 0.0
        self.items: dict[str, Told] = {}
        self.begun: defaultdict[LaneName, float] = defaultdict(float)
        self.processes = [self.queue.process() for _ in range(PROCESSES)]
        self.stopped: set[int] = set()
        for process in self.processes:
            process.holder.ensure(self.queue.db)
        self.old: list[tuple[int, Claimed]] = []
        self.answers = 0

    def teardown(self) -> None:
        for process in self.processes:
            process.holder.close()
        self.folder.cleanup()

    def of_state(self, *states: int) -> list[Told]:
        return [one for one in self.items.values() if one.state in states]

    @rule(
        key=st.sampled_from(KEYS),
        model=st.sampled_from(MODELS),
        priority=st.sampled_from(PRIORITIES),
        items=st.integers(1, 4),
        deadline=st.sampled_from([50.0, 1e9]),
    )
    def submit(self, key: str, model: str, priority: int, items: int, deadline: float) -> None:
        for item_id in self.queue.submit(key, model, priority, items, deadline=deadline):
            number = self.queue.item(item_id).number
            now = self.queue.now
            told = Told(number, item_id, (key, model, priority), now, now + deadline)
            self.items[item_id] = told

    @rule()
    def refuse_when_full(self) -> None:
        queued = len(self.of_state(QUEUED))
        try:
            self.queue.submit(items=1, room=submission.Room(queued, 1_000))
        except TooManyRequests:
            return
        raise AssertionError("it is full")

    @rule(
        who=st.integers(0, PROCESSES - 1),
        room=st.fixed_dictionaries({model: st.integers(0, 4) for model in MODELS}),
        most=st.integers(1, 6),
    )
    def claim(self, who: int, room: dict[str, int], most: int) -> None:
        if who in self.stopped:
            return
        self.expire()  # a claim looks for no item behind many that are too late
        process = self.processes[who]
        expected = [one.id for one in self.expected(room, most)]
        claimed = self.queue.claim(process, room, most)
        assert [one.id for one in claimed] == expected
        for item in claimed:
            told = self.items[item.id]
            told.state, told.runs_in, told.due = RUNNING, who, 0.0
            told.attempts += 1
            assert (item.attempt, item.charged) == (told.attempts, told.charged)
            self.begun[told.lane] = self.queue.now

    def expected(self, room: dict[str, int], most: int) -> list[Told]:
        """What the rules of the order say, one item after the other."""
        now, room, begun, found = self.queue.now, dict(room), dict(self.begun), list[Told]()
        running = Counter(one.lane[0] for one in self.of_state(RUNNING))
        served = {key: (self.served(key), 0) for key in KEYS}
        while len(found) < most:
            firsts = [one for one in self.firsts(now, found).values() if room[one.lane[1]]]
            if not firsts:
                break
            turns = {one.lane[0]: (running[one.lane[0]], served[one.lane[0]]) for one in firsts}
            aged = {one.id: self.place(one, begun, turns, ages=True) for one in firsts}
            key = min(firsts, key=lambda one: (turns[one.lane[0]], aged[one.id])).lane[0]
            plain = {one.id: self.place(one, begun, turns, ages=False) for one in firsts}
            chosen = min(firsts, key=lambda one: (aged if one.lane[0] == key else plain)[one.id])
            owner = chosen.lane[0]
            room[chosen.lane[1]] -= 1
            running[owner] += 1
            served[owner] = now, len(found) + 1
            begun[chosen.lane] = now
            found.append(chosen)
        return found

    def place(
        self, first: Told, begun: dict[LaneName, float], turns: dict[str, Turn], *, ages: bool
    ) -> tuple[float, Turn, float, int]:
        """The place of a lane with this first item."""
        now, priority = self.queue.now, first.lane[2]
        since = [one for one in (first.submitted, begun.get(first.lane, 0.0)) if one <= now]
        steps = max(now - first.submitted, 0.0) // ORDER.age_step
        is_late = now - max(since, default=now) >= ORDER.max_wait
        rank = math.inf if is_late else priority + (steps if ages else 0)
        return -rank, turns[first.lane[0]], first.submitted, self.lane_number(first.lane)

    def served(self, key: str) -> float:
        """When the owner was served last, as far as its busy lanes tell."""
        busy = {one.lane for one in self.of_state(QUEUED, RUNNING)}
        return max((self.begun[lane] for lane in busy if lane[0] == key), default=0.0)

    def firsts(self, now: float, taken: list[Told]) -> dict[LaneName, Told]:
        ready = [one for one in self.of_state(QUEUED) if one.due <= now and one not in taken]
        ready.sort(key=lambda one: (one.due == 0, one.due, one.number))
        firsts: dict[LaneName, Told] = {}
        for one in ready:
            firsts.setdefault(one.lane, one)
        return firsts

    def lane_number(self, lane: LaneName) -> int:
        owner, model, priority = lane
        named: dict[str, Value] = {"owner": owner, "model": model, "priority": priority}
        query = (
            "SELECT lane FROM batch_lanes"
            " WHERE owner = :owner AND model = :model AND priority = :priority"
        )
        [(number,)] = self.queue.db.select(query, named)
        return int(number)

    @rule(
        data=st.data(),
        who=st.integers(0, PROCESSES - 1),
        state=st.sampled_from([COMPLETED, ERROR, QUEUED]),
        counts=st.booleans(),
    )
    def settle(self, data: st.DataObject, who: int, state: int, counts: bool) -> None:
        """Also by a process that was stopped and whose items others have taken."""
        process = self.processes[who]
        if who in self.stopped or not process.running:
            return
        item = data.draw(st.sampled_from(process.running))
        self.answers += 1
        answer = None if state == QUEUED else b"%d" % self.answers
        now = self.queue.now
        due, expires = now + DELAY, None if state == QUEUED else now + KEPT
        told = self.items.get(item.id)
        own = told is not None and is_own(told, who, item)
        taken = self.queue.settle(
            process, item, state, answer, due=due, counts=counts, expires=expires
        )
        assert taken == own
        self.old.append((who, item))
        if told is not None and taken:
            told.state, told.runs_in, told.answer, told.expires = state, None, answer, expires
            told.due = due if state == QUEUED else 0.0
            told.charged += counts

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        who, item = data.draw(st.sampled_from(self.old))
        assert not self.queue.settle(self.processes[who], item, answer=b"a second one")

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.items:
            return
        told = data.draw(st.sampled_from(list(self.items.values())))
        found = changes.cancel(self.queue.db, told.id, self.queue.end())
        assert (found is not None) == (told.state in (QUEUED, RUNNING))
        if found is not None:
            told.state, told.runs_in, told.expires = CANCELED, None, self.queue.now + KEPT

    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        if not self.items:
            return
        told = data.draw(st.sampled_from(list(self.items.values())))
        deadline = self.queue.now + 1e9
        found = changes.requeue(self.queue.db, told.id, deadline)
        assert (found is not None) == (told.state in (ERROR, CANCELED))
        if found is not None:
            told.state, told.due, told.charged, told.answer = QUEUED, 0.0, 0, None
            told.expires, told.deadline = None, max(told.deadline, deadline)

    @rule(data=st.data(), who=st.integers(0, PROCESSES - 1), most=st.integers(1, 3))
    def give_up(self, data: st.DataObject, who: int, most: int) -> None:
        process = self.processes[who]
        if who in self.stopped or not process.running:
            return
        item = data.draw(st.sampled_from(process.running))
        process.running.remove(item)
        self.old.append((who, item))
        told = self.items.get(item.id)
        found = changes.give_up(self.queue.db, [item.running], LOST, most, self.queue.end())
        if told is None or not is_own(told, who, item):
            assert found == []
            return
        assert len(found) == 1
        told.state = QUEUED if told.charged + 1 < most else ERROR
        told.charged += told.state == QUEUED
        told.expires = None if told.state == QUEUED else self.queue.now + KEPT
        told.runs_in, told.due = None, 0.0

    @rule(seconds=st.sampled_from([1.0, DELAY, ORDER.age_step, ORDER.max_wait, -5.0]))
    def pass_time(self, seconds: float) -> None:
        """The wall clock may be set back."""
        self.queue.now += seconds

    @rule()
    def expire(self) -> None:
        found = changes.expire(self.queue.db, self.queue.end())
        late = [one for one in self.of_state(QUEUED) if one.deadline <= self.queue.now]
        assert sorted(one.id for one in found) == sorted(one.id for one in late)
        for told in late:
            told.state, told.due, told.expires = ERROR, 0.0, self.queue.now + KEPT

    @rule()
    def delete_expired(self) -> None:
        changes.delete_expired(self.queue.db, self.queue.now)
        for told in self.of_state(COMPLETED, ERROR, CANCELED):
            if told.expires is not None and told.expires <= self.queue.now:
                del self.items[told.id]
        lanes = {one.lane for one in self.items.values()}
        for lane in self.begun.keys() - lanes:
            del self.begun[lane]

    @rule(who=st.integers(0, PROCESSES - 1))
    def die(self, who: int) -> None:
        """A process is killed; another one begins in its place, and looks at once."""
        process = self.processes[who]
        process.die()
        self.stopped.discard(who)
        self.old += [(who, item) for item in process.running]
        self.processes[who] = new = self.queue.process()
        self.look(new)
        self._freed(who)

    @rule(who=st.integers(0, PROCESSES - 1))
    def stop(self, who: int) -> None:
        """A process is stopped for longer than the lease, while others look."""
        self.stopped.add(who)
        if len(self.stopped) == PROCESSES:
            self.stopped.clear()
        passed = 0.0
        while passed <= LEASE + 5:
            for other, process in enumerate(self.processes):
                if other not in self.stopped:
                    process.holder.beat(self.queue.db)
                    self.look(process)
            passed += 5
            self.monotonic += 5
        for one in self.stopped:
            self._freed(one)

    def look(self, process: Process) -> None:
        process.holder.ensure(self.queue.db)
        own = process.holder.number
        while process.others.take_over(self.queue.db, own, self.monotonic):
            pass

    @rule(who=st.integers(0, PROCESSES - 1))
    def go_on(self, who: int) -> None:
        self.stopped.discard(who)
        self.processes[who].holder.beat(self.queue.db)

    def _freed(self, who: int) -> None:
        for told in self.of_state(RUNNING):
            if told.runs_in == who:
                told.state, told.runs_in, told.due = QUEUED, None, 0.0

    @invariant()
    def rows_are_as_told(self) -> None:
        check_counts(self.queue.db)
        found = {one.id: one for one in reading.items_of(self.queue.db, reading.Wanted(), 10_000)}
        assert found.keys() == self.items.keys(), "none is lost"
        for told in self.items.values():
            item = found[told.id]
            assert item.state == told.state
            assert (item.attempts, item.charged) == (told.attempts, told.charged)
            assert item.deadline == told.deadline
            assert reading.answer_of(self.queue.db, item.number) == told.answer

    @rule(
        key=st.none() | st.sampled_from(KEYS),
        model=st.none() | st.sampled_from(MODELS),
        state=st.none() | st.integers(0, 4),
        limit=st.integers(1, 5),
    )
    def list_in_pages(
        self, key: str | None, model: str | None, state: int | None, limit: int
    ) -> None:
        wanted = reading.Wanted(key, model, state)
        listed: list[str] = []
        while page := reading.items_of(self.queue.db, wanted, limit):
            listed += [one.id for one in page]
            wanted = msgspec.structs.replace(wanted, after=page[-1].number)
        told = sorted(self.items.values(), key=lambda one: -one.number)
        assert listed == [
            one.id
            for one in told
            if key in (None, one.lane[0])
            and model in (None, one.lane[1])
            and state in (None, one.state)
        ]


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(stateful_step_count=30)
