"""The ring of `stickiness`: who moves when workers come and go, and how evenly keys are spread."""

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping

import pytest
from gateway_plugins.stickiness.ring import (
    MAX_CACHED_LENGTH,
    MAX_POINTS,
    OWNER_MASK,
    POINTS,
    KeyPoints,
    Ring,
    Rings,
    counts_of,
    key_point,
    points_of,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

FLEET = {f"gpu-{number}:8000": 1.0 for number in range(16)}
SESSIONS = 5_000
KEYS = [key_point("session", f"agent/{number}") for number in range(SESSIONS)]

QUICKLY = settings(max_examples=30)

fleets = st.dictionaries(
    st.text(max_size=8), st.sampled_from([0.001, 0.05, 0.1, 0.2, 0.3]), min_size=1, max_size=6
)
points = st.integers(0, (1 << 64) - 1)


def ring_of(fleet: Mapping[str, float]) -> Ring:
    return Ring(tuple(sorted(fleet.items())))


def owner(ring: Ring, point: int) -> str:
    return ring.names[ring.first(point)]


def homes(fleet: Mapping[str, float]) -> list[str]:
    """The workers of the 5,000 sessions."""
    ring = ring_of(fleet)
    return [owner(ring, point) for point in KEYS]


def order(ring: Ring, point: int) -> list[str]:
    return [ring.names[place] for place in ring.walk(point)]


@QUICKLY
@given(fleets, st.lists(points, min_size=1))
def test_ring_keeps_the_order_of_other_workers_if_one_comes_or_goes(
    fleet: dict[str, float], keys: list[int]
) -> None:
    without, within = ring_of(fleet), ring_of({**fleet, "a longer name": 0.2})
    for point in keys:
        others = [name for name in order(within, point) if name != "a longer name"]
        assert others == order(without, point)


@QUICKLY
@example({"a": 0.001, "b": 0.001}, (1 << 64) - 1)
@given(fleets, points)
def test_ring_walk_lists_each_worker_once_and_the_owner_first(
    fleet: dict[str, float], point: int
) -> None:
    ring = ring_of(fleet)
    walked = order(ring, point)
    assert sorted(walked) == sorted(fleet)
    assert walked[0] == owner(ring, point)


@QUICKLY
@given(fleets, st.lists(points, min_size=1), st.data())
def test_ring_moves_keys_only_to_the_worker_that_gains_weight(
    fleet: dict[str, float], keys: list[int], data: st.DataObject
) -> None:
    grown = data.draw(st.sampled_from(sorted(fleet)))
    before, after = ring_of(fleet), ring_of({**fleet, grown: fleet[grown] + 0.1})
    for point in keys:
        assert owner(after, point) in (owner(before, point), grown)


@QUICKLY
@given(st.text(max_size=9), st.integers(0, 99), st.integers(0, 99))
def test_ring_points_of_a_lower_count_are_a_prefix_of_a_higher_one(
    name: str, few: int, more: int
) -> None:
    few, more = sorted((few, more))
    assert points_of(name, few) == points_of(name, more)[:few]
    assert len(points_of(name, more)) == more


@QUICKLY
@given(fleets, points | st.just((1 << 64) - 1))
def test_ring_assigns_a_key_to_the_worker_of_the_next_point(
    fleet: dict[str, float], key: int
) -> None:
    shares = tuple(sorted(fleet.items()))
    counts = zip(shares, counts_of(shares), strict=True)
    every = sorted(
        (point & ~OWNER_MASK, place)
        for place, ((name, _), count) in enumerate(counts)
        for point in points_of(name, count)
    )
    following = (place for point, place in every if point | place >= key)
    assert Ring(shares).first(key) == next(following, every[0][1])


def test_key_point_differs_between_kinds_of_key() -> None:
    assert key_point("session", "a") != key_point("header", "a")
    assert key_point("a", "b") != key_point("ab", "")
    assert 0 <= key_point("session", "\ud800") < 1 << 64


def test_ring_gives_a_new_worker_its_share_and_moves_no_other_key() -> None:
    before, after = homes(FLEET), homes({**FLEET, "new:8000": 1.0})
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"new:8000"}
    assert len(moved) == pytest.approx(SESSIONS / 17, rel=3 * deviation(17))


def test_ring_moves_only_a_removed_worker_s_keys_and_restores_them() -> None:
    gone, *rest = FLEET
    before, without = homes(FLEET), homes(dict.fromkeys(rest, 1.0))
    moved = [old for old, new in zip(before, without, strict=True) if old != new]
    assert set(moved) == {gone}
    assert len(moved) == before.count(gone) == pytest.approx(SESSIONS / 16, rel=3 * deviation(16))
    heirs = Counter(new for old, new in zip(before, without, strict=True) if old == gone)
    assert len(heirs) == 15, "its keys go to all the others, not to one"
    assert homes({**dict.fromkeys(rest, 1.0), gone: 1.0}) == before


def deviation(workers: float, weight: float = 1.0) -> float:
    """Of a worker's number of sessions, relative to its mean, in theory.

    The share of n points among many varies by 1 / sqrt(n), the number of sessions in a share by
    that of a binomial; the two are independent.
    """
    mean = SESSIONS / workers * weight
    return math.sqrt(1 / (POINTS * weight) + (1 - weight / workers) / mean)


def test_ring_gives_equal_workers_equal_shares() -> None:
    found = Counter(homes(FLEET))
    mean = SESSIONS / len(FLEET)
    off = [found[name] / mean - 1 for name in FLEET]
    assert max(map(abs, off)) < 3 * deviation(16)
    assert math.sqrt(sum(one * one for one in off) / 16) < 1.5 * deviation(16)


def test_ring_gives_unequal_workers_shares_by_weight() -> None:
    fleet = {name: (0.5, 1.0, 2.0, 4.0)[place % 4] for place, name in enumerate(FLEET)}
    found, total = Counter(homes(fleet)), sum(fleet.values())
    for name, weight in fleet.items():
        mean = SESSIONS * weight / total
        assert found[name] / mean == pytest.approx(1, abs=3.5 * deviation(total, weight))


TOLD = """
from gateway_plugins.stickiness.ring import Ring, key_point
ring = Ring((("a", 1.0), ("b", 2.0), ("\\u00fc", 0.5)))
print([ring.first(key_point("session", str(n))) for n in range(200)])
"""


def test_ring_is_the_same_in_processes_with_different_hash_seeds() -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TOLD],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    one, other = (process.communicate(timeout=30)[0] for process in running)
    assert one == other
    assert set(one) > set(b"012")


@pytest.mark.parametrize("weights", [[1e9, 1.0], [1e308, 1e308], [1e-300, 1.0], [1.0] * 2_000])
def test_ring_size_is_bounded_for_any_weights(weights: list[float]) -> None:
    shares = tuple((str(place), weight) for place, weight in enumerate(weights))
    counts = counts_of(shares)
    assert min(counts) >= 1
    assert sum(counts) <= MAX_POINTS + len(weights)


@QUICKLY
@given(st.floats(0.01, 50), st.floats(0.01, 50))
def test_ring_point_counts_are_proportional_to_the_weights(one: float, other: float) -> None:
    few, many = sorted(counts_of((("a", one), ("b", other))))
    small, large = sorted((one, other))
    assert few == pytest.approx(many * small / large, abs=1.5)


def test_rings_cache_keeps_the_latest_rings_within_its_size() -> None:
    rings = Rings(kept_points=3 * POINTS)
    one, two, three = ((name, 1.0) for name in "abc")
    first = rings.of((one,))
    rings.of((two,))
    assert rings.of((one,)) is first
    second = rings.of((two,))
    rings.of((one, three))
    assert rings.of((two,)) is second
    assert rings.of((one,)) is not first, "it was the one that was not asked for the longest"
    assert len(rings.of((one, two, three, ("d", 9.0)))) > 3 * POINTS, "the latest one is kept"


def test_points_of_keys_are_the_same_from_the_cache() -> None:
    points = KeyPoints()
    for value in ("a", "a", "é\ud800", "x" * MAX_CACHED_LENGTH, "x" * (MAX_CACHED_LENGTH + 1)):
        for kind in ("session", "prefix"):
            assert points.of(kind, value) == key_point(kind, value)
