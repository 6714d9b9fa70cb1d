"""What the policies of `stickiness` are made of: pins, turns, views."""

from collections import Counter, OrderedDict
from collections.abc import Sequence

import pytest
from gateway_plugins.stickiness.pins import Pins
from gateway_plugins.stickiness.turns import Turns
from gateway_plugins.stickiness.views import View, Views
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import Workers, config


def registry(*weights: float, models: Sequence[str] = ()) -> Workers:
    """Workers w0, w1, ... of these weights; the first of them serve `models`, one each."""
    named = [*((name,) for name in models), *(() for _ in weights[len(models) :])]
    return Workers(
        config.Config(
            workers=tuple(
                config.Worker(
                    url=f"http://w{place}", worker_id=f"w{place}", weight=weight, models=names
                )
                for place, (weight, names) in enumerate(zip(weights, named, strict=True))
            )
        )
    )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# pins


QUICKLY = settings(max_examples=40)

steps = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.0, 0.375, 3.0])))


@QUICKLY
@given(st.integers(1, 9), steps)
def test_pins_are_bounded_and_keep_the_latest_half(
    most: int, steps: list[tuple[int, float]]
) -> None:
    clock = Clock()
    pins = Pins(most, 1.0, clock)
    used: OrderedDict[int, float] = OrderedDict()
    for point, later in steps:
        clock.now += later
        if pins.use(point) is None:
            assert point not in recent(used, most, clock.now, 1.0), "it was forgotten too early"
            pins.put(point, str(point))
        else:
            assert clock.now - used[point] <= 2.0, "it was remembered for too long"
        used[point] = clock.now
        used.move_to_end(point)
        assert pins.look(point) == str(point)
        assert len(pins) <= most


def recent(used: OrderedDict[int, float], most: int, now: float, ttl: float) -> set[int]:
    """Those that must be remembered: used within the time, and among the last half."""
    latest = list(used)[-(most // 2) :] if most // 2 else []
    return {point for point in latest if now - used[point] < ttl}


def test_pins_move_a_session_to_its_new_worker() -> None:
    pins = Pins(4, 60)
    pins.put(1, "a")
    pins.put(2, "a")  # both are in the old generation now
    pins.put(1, "b")
    assert (pins.use(1), pins.look(2), len(pins)) == ("b", "a", 2)


def test_pins_keep_a_used_pin_longer_than_later_unused_ones() -> None:
    pins = Pins(4, 60)
    for point in (1, 2, 3, 1, 4):
        if pins.use(point) is None:
            pins.put(point, "a")
    assert (pins.look(1), pins.look(2)) == ("a", None)


# turns


def test_turns_rotate_strictly_among_equal_workers() -> None:
    workers = registry(1, 1, 1, 1).all
    turns = Turns(workers)
    first = [turns.take(workers) for _ in range(4)]
    assert set(first) == set(workers)
    assert [turns.take(workers) for _ in range(8)] == first * 2


@QUICKLY
@given(st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0]), min_size=1, max_size=5))
def test_turns_are_proportional_to_the_weights(weights: list[float]) -> None:
    workers = registry(*weights).all
    turns = Turns(workers)
    taken = Counter(turns.take(workers) for _ in range(500))
    for worker in workers:
        assert taken[worker] == pytest.approx(500 * worker.weight / sum(weights), abs=2)


def test_turns_missed_by_an_absent_worker_are_not_made_up() -> None:
    workers = registry(1, 1).all
    turns = Turns(workers)
    assert {turns.take(workers[:1]) for _ in range(50)} == {workers[0]}
    after = Counter(turns.take(workers) for _ in range(10))
    assert after[workers[1]] == pytest.approx(5, abs=1)
    assert turns.take(()) is None
    assert turns.take(workers) is not None


# views


def test_view_keeps_its_ring_while_a_worker_is_unfit() -> None:
    workers = registry(1, 1)
    views = Views(workers)
    workers.changed.append(views.forget)
    before = views.of(None)
    assert views.of("any") is before, "of names that strangers make up none is remembered"
    workers.all[0].mark("test", "down", "")
    after = views.of(None)
    assert after is not before
    assert (after.ring, after.fit) == (before.ring, workers.all[1:])
    assert len(views) == 1


def test_view_counts_the_load_of_its_model_s_workers_only() -> None:
    workers = registry(1, 1, 1, models=("a", "b"))
    for worker, count in zip(workers.all, (5, 3, 1), strict=True):
        for _ in range(count):
            worker.begin()
    views = Views(workers)
    assert [views.of(model).in_flight() for model in ("a", "b", None)] == [6, 4, 9]


def test_view_of_many_workers_recounts_the_load_only_at_intervals() -> None:
    workers = registry(*[1.0] * 17, models=("a",) * 16 + ("b",))
    view = Views(workers).of("a")
    seen = []
    for _ in range(7):
        seen.append(view.in_flight())
        workers.all[0].begin()
    assert seen == [0, 0, 0, 3, 3, 3, 6]


def test_view_of_no_workers_is_empty() -> None:
    view: View = Views(registry()).of(None)
    assert (view.all, view.fit, view.in_flight()) == ([], (), 0)
