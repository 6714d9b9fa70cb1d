"""How many items run beside realtime calls, in virtual time and for any numbers of calls."""

from collections.abc import Callable, Sequence

import pytest
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.running import pace as pace_module
from gateway_plugins.batch.running.pace import UNKNOWN_MODEL, Pace
from gateway_plugins.batch.running.window import FIRST_WINDOW
from hypothesis import given
from hypothesis import strategies as st
from support.workers.virtual_engine import Clock, Engine, Fleet

from gateway import Attempt, Call, Workers
from gateway.config import Config, Worker
from gateway.testing import make_call

Build = Callable[..., Fleet]


def workers_of(*models: str) -> Workers:
    return Workers(
        Config(
            workers=tuple(
                Worker(url=f"http://127.0.0.1:{port}", models=(model,))
                for port, model in enumerate(models, 1)
            )
        )
    )


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """Makes a worker before realtime callers, who have called for two minutes."""

    def made(engine: Engine, *, rate: float, limit: int | None = None) -> Fleet:
        clock, fleets = Clock(), list[Fleet]()
        monkeypatch.setattr(pace_module, "monotonic", lambda: clock.now)
        workers = workers_of("sim")
        workers.all[0].slots.limit = limit
        pace = Pace(workers, Options(), 1, lambda: fleets[0].items if fleets else ())
        fleet = Fleet(pace, workers, engine, clock, rate)
        fleets.append(fleet)
        clock.run(120)
        return fleet

    return made


def during(fleet: Fleet, seconds: float, *, full: bool) -> tuple[float, float]:
    """Return the p99 of times to first bytes, and the mean of the items in flight."""
    fleet.full = full
    fleet.ttft.clear()
    fleet.done = 0
    fleet.clock.run(seconds)
    duration = fleet.engine.ttft + fleet.engine.itl * (fleet.length - 1)
    return p99(fleet.ttft), fleet.done * duration / seconds


def p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


async def test_pace_keeps_realtime_calls_as_quick_as_without_items_at_a_limited_worker(
    build: Build,
) -> None:
    fleet = build(Engine(places=32), rate=20, limit=32)
    idle, _ = during(fleet, 100, full=False)
    for seconds in (10, 50, 100):  # from the first item on
        busy, items = during(fleet, seconds, full=True)
        assert busy <= 1.1 * idle
        assert items > 8


async def test_pace_leaves_an_engine_that_shows_no_limit_room_for_realtime_calls(
    build: Build,
) -> None:
    fleet = build(Engine(places=32), rate=20)
    idle, _ = during(fleet, 100, full=False)
    during(fleet, 200, full=True)  # until it is found out
    busy, items = during(fleet, 300, full=True)
    assert busy <= 1.2 * idle
    assert items > 8


async def test_pace_keeps_realtime_calls_quick_at_an_engine_that_tells_who_waits_in_it(
    build: Build,
) -> None:
    fleet = build(Engine(places=32, tells=True), rate=20)
    idle, _ = during(fleet, 100, full=False)
    during(fleet, 30, full=True)  # until it is found out
    busy, items = during(fleet, 300, full=True)
    assert busy <= 1.3 * idle  # it is tried now and then whether the engine takes more
    assert items > 8


async def test_pace_is_not_slowed_by_an_engine_in_which_calls_wait_for_their_first_token(
    build: Build,
) -> None:
    fleet = build(Engine(places=1000, tells=True, counts_first=True), rate=20)
    during(fleet, 30, full=True)
    _, items = during(fleet, 100, full=True)
    assert items > 0.95 * 64


async def test_pace_fills_an_unknown_engine_within_some_rounds(build: Build) -> None:
    fleet = build(Engine(places=64), rate=0)
    during(fleet, 8, full=True)
    _, items = during(fleet, 30, full=True)
    assert items > 0.97 * 64


async def test_pace_beside_realtime_calls_fills_a_large_engine(build: Build) -> None:
    fleet = build(Engine(places=1000), rate=20)
    idle, _ = during(fleet, 100, full=False)
    during(fleet, 20, full=True)
    busy, items = during(fleet, 100, full=True)
    assert busy <= 1.1 * idle
    assert items > 0.95 * 64


async def test_pace_gives_way_when_realtime_calls_grow_and_comes_back(build: Build) -> None:
    fleet = build(Engine(places=32), rate=2, limit=32)
    _, before = during(fleet, 60, full=True)
    fleet.rate = 50.0
    during(fleet, 30, full=True)
    _, under_load = during(fleet, 60, full=True)
    fleet.rate = 2.0
    during(fleet, 90, full=True)
    _, after = during(fleet, 60, full=True)
    assert under_load < 0.5 * before
    assert after > 0.9 * before


async def test_pace_shrinks_for_a_worker_that_refuses_and_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(pace_module, "monotonic", lambda: clock.now)
    workers = workers_of("sim")
    [worker] = workers.all
    pace = Pace(workers, Options(), 1, list)
    sizes = []
    for status in (429, *[200] * 400):
        for _ in range(16):
            worker.begin()
        attempt = Attempt(worker, clock.now, status=status)
        call = make_call()
        call.attempts.append(attempt)
        pace.attempt_ended(call, attempt, is_item=True)
        for _ in range(16):
            worker.end()
        sizes.append(pace.windows()[worker.id])
        clock.run(1.0)
    assert sizes[0] == 8.0
    assert max(sizes) > 2 * sizes[0]


@given(
    st.lists(st.tuples(st.integers(0, 70), st.none() | st.integers(0, 70)), min_size=1, max_size=4),
    st.integers(0, 300),
    st.integers(1, 8),
    st.booleans(),
)
def test_pace_never_gives_more_room_than_the_limits_leave(
    places: list[tuple[int, int | None]], running: int, processes: int, mixed: bool
) -> None:
    options = Options()
    workers = workers_of(*(f"m{n if mixed else 0}" for n in range(len(places))))
    items: list[Call] = []
    for worker, (used, limit) in zip(workers.all, places, strict=True):
        for _ in range(used):
            worker.begin()
        worker.slots.limit = limit
    pace = Pace(workers, options, processes, lambda: items)
    for _ in range(running):
        pace.begin("m0")
    rooms, others, every = pace.rooms()
    least = options.min_concurrent
    for room in (*rooms.values(), every):
        assert room >= 0
    free = [
        min(int(FIRST_WINDOW), options.max_concurrent // processes)
        if limit is None
        else max(limit - used, 0)
        for used, limit in places
    ]
    assert every <= max(sum(free), least) + (UNKNOWN_MODEL if workers.mixed else 0)
    if workers.mixed:
        assert all(rooms[f"m{n}"] <= max(one, least) for n, one in enumerate(free))
    else:
        assert others == every


def test_pace_gives_no_room_while_no_worker_is_fit() -> None:
    workers = workers_of("a", "b")
    pace = Pace(workers, Options(), 1, list)
    for worker in workers.all:
        worker.mark("test", "down", "it is away")
    rooms, others, every = pace.rooms()
    assert rooms == {"a": 0, "b": 0}
    assert every == others == UNKNOWN_MODEL
    assert Pace(workers_of("a"), Options(), 1, list).rooms()[2] > 0


def test_pace_counts_items_that_wait_in_the_gateway() -> None:
    """A call that a worker has refused may wait there, where realtime calls do."""
    workers = workers_of("sim")
    pace = Pace(workers, Options(min_concurrent=0), 1, list)
    _, _, first = pace.rooms()
    for _ in range(first):
        pace.begin("sim")
    assert pace.rooms()[2] == 0
