"""Whether items delay realtime calls, told from the times to their first bytes."""

import random

import pytest
from gateway_plugins.batch.running.lateness import BESIDE, FEWEST, Finding, Lateness
from hypothesis import given
from hypothesis import strategies as st

USUAL = 0.05


def learned(chance: random.Random, spread: float = 0.2) -> Lateness:
    found = Lateness()
    for _ in range(256):
        found.note_alone(USUAL * chance.lognormvariate(0, spread))
    return found


def note(
    lateness: Lateness, chance: random.Random, calls: int, factor: float, items: int = 32
) -> list[Finding]:
    """Note so many calls, 20 a second, each `factor` times as late as usual."""
    return [
        lateness.note_beside(USUAL * factor * chance.lognormvariate(0, 0.2), number / 20, items)
        for number in range(calls)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_lateness_blames_nobody_for_what_varies_by_itself(seed: int) -> None:
    chance = random.Random(seed)
    assert set(note(learned(chance), chance, 300, 1.0)) == {Finding.NOTHING}


@given(st.integers(0, 10_000), st.floats(1.4, 100))
def test_lateness_blames_items_for_a_shift_of_all_calls(seed: int, factor: float) -> None:
    chance = random.Random(seed)
    assert Finding.BLAMED in note(learned(chance), chance, 2 * BESIDE, factor)


def test_lateness_shows_calls_that_wait_in_an_engine_within_little_more_than_a_second() -> None:
    chance = random.Random(1)
    found = note(learned(chance), chance, 25, 10.0)
    assert Finding.BLAMED in found


def test_lateness_of_a_moment_in_which_the_machine_stood_still_counts_little() -> None:
    chance = random.Random(1)
    lateness = learned(chance)
    note(lateness, chance, BESIDE, 1.0)
    assert set(note(lateness, chance, 15, 10.0)) == {Finding.NOTHING}


def test_lateness_acquits_items_if_half_of_them_delay_calls_as_much() -> None:
    chance = random.Random(1)
    lateness = learned(chance)
    assert Finding.BLAMED in note(lateness, chance, BESIDE, 1.7, items=40)
    found = note(lateness, chance, 2 * BESIDE, 1.7, items=20)
    assert Finding.ACQUITTED in found
    assert lateness.blame is None


def test_lateness_blames_items_again_if_half_of_them_delay_calls_half_as_much() -> None:
    chance = random.Random(1)
    lateness = learned(chance)
    assert Finding.BLAMED in note(lateness, chance, BESIDE, 2.0, items=40)
    found = note(lateness, chance, BESIDE, 1.45, items=20)
    assert Finding.BLAMED in found
    assert Finding.ACQUITTED not in found


def test_lateness_forgets_its_blame_once_calls_come_in_time_beside_fewer_items() -> None:
    chance = random.Random(1)
    lateness = learned(chance)
    assert Finding.BLAMED in note(lateness, chance, BESIDE, 2.0, items=40)
    note(lateness, chance, BESIDE, 1.0, items=30)
    assert lateness.blame is None


@given(st.lists(st.floats(0, 1e6), max_size=FEWEST - 1), st.lists(st.floats(0, 1e6), max_size=100))
def test_lateness_says_nothing_as_long_as_it_knows_little(
    alone: list[float], beside: list[float]
) -> None:
    lateness = Lateness()
    for seconds in alone:
        lateness.note_alone(seconds)
    found = {lateness.note_beside(seconds, 0.0, 8) for seconds in beside}
    assert found <= {Finding.NOTHING}
