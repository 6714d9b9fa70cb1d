"""The simulated box, the picture of its day, and what the model of the old system does wrong."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.simulation.__main__ import day, main
from gateway_plugins.runtime.policy.simulation.box import Box
from gateway_plugins.runtime.policy.simulation.load import (
    BROKEN,
    DAY,
    HOUR,
    LOADS,
    REALTIME,
    SCENARIOS,
    Call,
    Item,
    Load,
    load_of,
)
from gateway_plugins.runtime.policy.simulation.measures import measured
from gateway_plugins.runtime.policy.simulation.ours import Ours
from gateway_plugins.runtime.policy.simulation.replaced import Replaced
from support.paths import DOCS

PICTURE = DOCS / "runtime-day.svg"
QUIET, USUAL, BUSY = SCENARIOS
BOTH = [Ours, Replaced]


def load(calls: list[Call] | None = None, items: list[Item] | None = None) -> Load:
    return Load(end=6 * HOUR, calls=calls or [], items=items or [])


def ran(box: Box) -> Box:
    box.run()
    return box


# the picture


def test_the_picture_of_the_day_is_what_the_simulation_draws() -> None:
    assert PICTURE.read_text() == day("usual", 1), "run `make simulate-day`"


def test_the_picture_is_small_and_valid() -> None:
    assert PICTURE.stat().st_size < 60_000
    assert ET.fromstring(PICTURE.read_text()).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in PICTURE.read_text()


@pytest.mark.slow
def test_the_command_writes_the_picture(tmp_path: Path) -> None:
    main(["day", str(tmp_path / "day.svg"), "--load", "quiet", "--seed", "3"])
    assert (tmp_path / "day.svg").read_text() == day("quiet", 3)


# the arrivals


def test_the_same_seed_gives_the_same_arrivals_however_long() -> None:
    short, long = load_of(USUAL, 7, DAY), load_of(USUAL, 7, 2 * DAY)
    assert [one.at for one in short.calls] == [one.at for one in long.calls if one.at < DAY]
    assert [one.at for one in short.items] == [one.at for one in long.items if one.at < DAY]
    assert [one.at for one in load_of(USUAL, 8, DAY).calls] != [one.at for one in short.calls]


# the box


@pytest.mark.parametrize("system", BOTH)
def test_every_second_is_accounted_for(system: type[Box]) -> None:
    spans = ran(system(load_of(USUAL, 1, DAY))).record.spans
    assert spans[0].start == 0
    assert spans[-1].end == DAY
    assert all(one.end == next_.start for one, next_ in pairwise(spans))


@pytest.mark.parametrize("system", BOTH)
def test_every_call_and_item_is_served_in_an_idle_time(system: type[Box]) -> None:
    items = [Item(1_000, "eval-a", 10) for _ in range(200)]
    box = ran(system(load([Call(500, 5), Call(9_000, 5)], items)))
    assert [round(one.until_served) for one in box.record.waits] == [0, 0]
    assert all(one.ended is not None and not one.lost for one in items)
    assert box.record.switches == 3
    assert box.model == REALTIME


@pytest.mark.slow
def test_both_systems_get_the_same_work_and_lose_none_of_it_in_the_books() -> None:
    for system in BOTH:
        box = ran(system(load_of(BUSY, 2, DAY)))
        found = measured(box)
        items = [one for one in box.work.items if one.model != BROKEN]
        assert found.done + found.lost + found.left == len(items)


# ours


def test_ours_turns_back_a_load_for_a_call() -> None:
    items = [Item(1_000, "eval-c", 10)]
    box = ran(Ours(load([Call(1_060, 5)], items)))
    assert [round(one.until_served) for one in box.record.waits] == [LOADS[REALTIME]]


def test_ours_holds_a_call_for_min_batch_and_the_load() -> None:
    items = [Item(1_000, "eval-a", 100) for _ in range(320)]
    box = ran(Ours(load([Call(1_050, 5)], items)))
    waited = box.record.waits[0].until_served
    rules = Rules()
    at_most = rules.min_batch + rules.drain_batch + LOADS[REALTIME]
    assert at_most - 15 < waited <= at_most + 5
    assert all(one.ended is not None and not one.lost for one in items)


def test_fault_5_6_ours_is_back_at_the_realtime_model_after_a_failed_load() -> None:
    box = ran(Ours(load([Call(2_000, 5)], [Item(1_000, BROKEN, 10)])))
    assert box.record.waits[0].until_served == 0
    assert measured(box).loading * 6 * HOUR == pytest.approx(2 * LOADS[REALTIME] + LOADS[BROKEN])


# the system that is replaced


def test_fault_5_6_the_replaced_one_has_no_model_after_a_failed_load() -> None:
    box = ran(Replaced(load([Call(2_000, 5)], [Item(1_000, BROKEN, 10)])))
    assert box.record.waits[0].until_served == 120


def test_fault_5_1_the_replaced_one_refills_its_bucket_at_half_speed() -> None:
    box = Replaced(load())
    box.tokens = 0
    box.run()
    assert box.tokens == pytest.approx(6 * HOUR / 2 * 0.000555, rel=0.01) or box.tokens == 3


def test_fault_5_4_the_replaced_one_always_drains_for_three_seconds() -> None:
    items = [Item(1_000, "eval-a", 5_000)]
    box = ran(Replaced(load([Call(2_000, 5)], items)))
    assert box.record.waits[0].until_ready == 3 + LOADS[REALTIME]


def test_fault_3_9_the_replaced_one_loses_long_items_that_it_preempts() -> None:
    items = [Item(1_000, "eval-a", 5_000) for _ in range(100)]
    ran(Replaced(load([Call(2_000, 5)], items)))
    assert sum(one.lost for one in items) == 64


def test_fault_2_4_calls_get_errors_while_the_replaced_one_loads_another_model() -> None:
    box = ran(Replaced(load([Call(1_010, 5)], [Item(1_000, "eval-c", 10)])))
    assert box.record.refused > 20
    assert box.record.waits[0].until_served > LOADS["eval-c"]


@pytest.mark.slow
def test_fault_3_4_the_replaced_one_stays_with_a_model_that_has_items() -> None:
    """Ours gives the single item its turn."""
    for system in BOTH:
        many = [Item(600 + one / 2, "eval-a", 100) for one in range(20_000)]
        single = Item(700, "eval-b", 10)
        ran(system(load(items=sorted([*many, single], key=lambda one: one.at))))
        waited = 6 * HOUR if single.started is None else single.started - single.at
        assert (waited <= Rules().max_wait) == (system is Ours)


# side by side


@pytest.mark.slow
def test_ours_has_fewer_long_waits_and_no_item_that_starves_in_two_days() -> None:
    """Of one day alone, the calls for which the model was away may be as many: 14 and 13."""
    theirs = [measured(ran(Replaced(load_of(USUAL, seed, DAY)))) for seed in (1, 2)]
    ours = [measured(ran(Ours(load_of(USUAL, seed, DAY)))) for seed in (1, 2)]
    long_waits = sum(day.long_waits for day in ours)
    assert long_waits < sum(day.long_waits for day in theirs)
    assert long_waits < sum(day.long_unready for day in theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.max_wait <= Rules().max_wait < other.max_wait
        assert own.lost == 0
