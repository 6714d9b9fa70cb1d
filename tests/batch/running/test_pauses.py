"""Lanes that rest after refusals."""

import pytest
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.running import pauses as pauses_module
from gateway_plugins.batch.running.pauses import FREE, Pauses
from hypothesis import given
from hypothesis import strategies as st
from support.workers.virtual_engine import Clock

OPTIONS = Options()
LANE = 7


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pauses_module, "monotonic", lambda: made.now)
    return made


def test_a_lane_that_was_refused_begins_again_with_one_item(clock: Clock) -> None:
    pauses = Pauses(OPTIONS)
    assert pauses.rooms({}) == {}
    pauses.refused(LANE, 5.0)
    clock.run(4.9)
    assert pauses.rooms({}) == {LANE: 0}
    clock.run(0.2)
    assert pauses.rooms({}) == {LANE: 1}
    assert pauses.rooms({LANE: 1}) == {LANE: 0}
    pauses.went_well(LANE)
    assert pauses.rooms({}) == {LANE: 2}


def test_the_pauses_of_a_lane_double_up_to_the_longest(clock: Clock) -> None:
    pauses = Pauses(OPTIONS)
    waits = []
    for _ in range(9):
        pauses.refused(LANE, 1.0)
        began = clock.now
        while not pauses.rooms({})[LANE]:
            clock.run(0.25)
        waits.append(clock.now - began)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    pauses.went_well(LANE)
    pauses.refused(LANE, 1.0)
    clock.run(1.0)
    assert pauses.rooms({}) == {LANE: 1}


def test_items_of_a_lane_that_were_refused_together_count_once(clock: Clock) -> None:
    pauses = Pauses(OPTIONS)
    for _ in range(64):
        pauses.refused(LANE, 1.0)
    clock.run(1.0)
    assert pauses.rooms({}) == {LANE: 1}


def test_a_lane_that_is_not_refused_any_more_becomes_free(clock: Clock) -> None:
    pauses = Pauses(OPTIONS)
    pauses.refused(LANE, 1.0)
    clock.run(1.0)
    for _ in range(FREE):
        pauses.went_well(LANE)
    assert pauses.rooms({}) == {}


def test_lanes_that_were_refused_long_ago_are_forgotten(clock: Clock) -> None:
    pauses = Pauses(OPTIONS)
    for lane in range(1_000):
        pauses.refused(lane, 1.0)
    clock.run(3_600)
    assert pauses.rooms({}) == {}


@given(
    st.lists(st.tuples(st.sampled_from(["refused", "well"]), st.floats(0, 100)), max_size=50),
)
def test_a_lane_never_rests_longer_than_the_longest_pause_or_what_was_asked(
    events: list[tuple[str, float]],
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pauses_module, "monotonic", lambda: clock.now)
        pauses, asked = Pauses(OPTIONS), 0.0
        for what, seconds in events:
            if what == "refused":
                pauses.refused(LANE, seconds)
                asked = max(asked, seconds)
            else:
                pauses.went_well(LANE)
            clock.run(seconds / 10)
        clock.run(max(asked, OPTIONS.max_pause))
        assert pauses.rooms({}).get(LANE, 1) >= 1
