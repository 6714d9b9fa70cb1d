"""What is asked of the box: realtime calls and batch items, at random from a seed."""

import math
from collections.abc import Callable, Iterator
from random import Random

import msgspec

HOUR = 3_600.0
DAY = 24 * HOUR
WEEK = 7 * DAY

REALTIME = "chat"
BROKEN = "too-large"
"""A model that no load of it succeeds."""

LOADS = {REALTIME: 90.0, "eval-a": 45.0, "eval-b": 75.0, "eval-c": 120.0, BROKEN: 40.0}
"""Seconds that each model takes to load, or to fail."""

OF_BULKS = ("eval-a",) * 10 + ("eval-b",) * 8 + ("eval-c",) * 6 + (REALTIME,) * 3 + (BROKEN,)
OF_SINGLES = ("eval-a", "eval-b", "eval-c")


class Call(msgspec.Struct, eq=False):
    """A realtime call: comes `at` a time, takes `seconds` once it is served."""

    at: float
    seconds: float


class Item(msgspec.Struct, eq=False):
    """A batch item; `started` first, `ended` at last; `lost`: it ended as an error."""

    at: float
    model: str
    seconds: float
    priority: int = 1
    started: float | None = None
    ended: float | None = None
    lost: bool = False


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """How much is asked: means.

    `sessions` of about ten calls each an hour, between 8 and 18 on working days; `strays`, single
    calls an hour; `bulks`, submissions of many items a day; `singles`, items an hour.
    """

    name: str
    sessions: float
    strays: float
    bulks: float
    singles: float


SCENARIOS = (
    Scenario(name="quiet", sessions=1, strays=0.1, bulks=4, singles=2),
    Scenario(name="usual", sessions=3, strays=0.3, bulks=8, singles=6),
    Scenario(name="busy", sessions=12, strays=1, bulks=12, singles=12),
)


class Load(msgspec.Struct):
    """All that is asked until `end`; calls and items by time."""

    end: float
    calls: list[Call]
    items: list[Item]


def load_of(scenario: Scenario, seed: int, end: float = WEEK) -> Load:
    """The same arguments give the same arrivals. The week begins on a Monday at midnight."""
    calls = [*_sessions(scenario, seed, end), *_strays(scenario, seed, end)]
    items = [*_bulks(scenario, seed, end), *_singles(scenario, seed, end)]
    return Load(
        end=end,
        calls=sorted((one for one in calls if one.at < end), key=lambda one: one.at),
        items=sorted((one for one in items if one.at < end), key=lambda one: one.at),
    )


def at_work(time: float) -> bool:
    """Whether it is between 8 and 18 on a working day."""
    return time % WEEK < 5 * DAY and 8 * HOUR <= time % DAY < 18 * HOUR


def _sessions(scenario: Scenario, seed: int, end: float) -> Iterator[Call]:
    random = Random(f"sessions {seed}")
    for start in _moments(random, scenario.sessions / HOUR, end, at_work):
        now = start
        while random.random() < 0.9:
            yield Call(now, _about(random, 8))
            now += random.expovariate(1 / 30)


def _strays(scenario: Scenario, seed: int, end: float) -> Iterator[Call]:
    random = Random(f"strays {seed}")
    for now in _moments(random, scenario.strays / HOUR, end):
        yield Call(now, _about(random, 8))


def _bulks(scenario: Scenario, seed: int, end: float) -> Iterator[Item]:
    """Seven of ten come while people are at work."""
    by_day, always = Random(f"bulks {seed}"), Random(f"other bulks {seed}")
    for now in _moments(by_day, scenario.bulks * 0.98 / (10 * HOUR), end, at_work):
        yield from _bulk(by_day, now)
    for now in _moments(always, scenario.bulks * 0.3 / DAY, end):
        yield from _bulk(always, now)


def _bulk(random: Random, now: float) -> Iterator[Item]:
    model = random.choice(OF_BULKS)
    for _ in range(min(5_000, max(20, int(_about(random, 300, 1.0))))):
        yield Item(now, model, _about(random, 10))


def _singles(scenario: Scenario, seed: int, end: float) -> Iterator[Item]:
    random = Random(f"singles {seed}")
    for now in _moments(random, scenario.singles / HOUR, end):
        yield Item(now, random.choice(OF_SINGLES), _about(random, 10), random.choice((1, 1, 5)))


def _moments(
    random: Random, rate: float, end: float, when: Callable[[float], bool] = lambda _: True
) -> Iterator[float]:
    now = random.expovariate(rate)
    while now < end:
        if when(now):
            yield now
        now += random.expovariate(rate)


def _about(random: Random, median: float, spread: float = 0.5) -> float:
    return random.lognormvariate(math.log(median), spread)
