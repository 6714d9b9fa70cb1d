"""Weeks of several loads and seeds under both systems, and their table."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import msgspec

from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.simulation.box import Box
from gateway_plugins.runtime.policy.simulation.load import SCENARIOS, WEEK, Load, Scenario, load_of
from gateway_plugins.runtime.policy.simulation.measures import Measures, measured
from gateway_plugins.runtime.policy.simulation.ours import Ours
from gateway_plugins.runtime.policy.simulation.replaced import Replaced

PATIENT = Rules(max_wait=28_800, min_hot=1_200)
"""For a box that people use all day: items may wait for the evening."""


class System(msgspec.Struct, frozen=True):
    name: str
    box: Callable[[Load], Box]


REPLACED = System("replaced", Replaced)
OURS = System("ours", Ours)
SYSTEMS = (REPLACED, OURS, System("ours, patient", lambda load: Ours(load, PATIENT)))

ROWS: tuple[tuple[str, Callable[[Measures], str]], ...] = (
    ("switches", lambda one: f"{one.switches:,}"),
    ("GPU idle, hot without work", lambda one: f"{one.idle:.1%}"),
    ("GPU loading", lambda one: f"{one.loading:.1%}"),
    ("realtime wait, p50 / p99", lambda one: f"{one.p50:.0f} / {one.p99:.0f} s"),
    ("realtime wait, longest", lambda one: f"{one.longest:.0f} s"),
    ("realtime waits above 60 s", lambda one: f"{one.long_waits:,}"),
    ("model not there for 60 s", lambda one: f"{one.long_unready:,}"),
    ("errors that callers saw", lambda one: f"{one.refused:,}"),
    ("items done", lambda one: f"{one.done:,}"),
    ("items lost", lambda one: f"{one.lost:,}"),
    ("item's wait, mean", lambda one: f"{one.mean_wait:,.0f} s"),
    ("item's wait, longest", lambda one: f"{one.max_wait:,.0f} s"),
    ("item's completion, mean", lambda one: f"{one.mean_completion:,.0f} s"),
)
LONGEST = ("longest", "max_wait")


def weeks(scenario: Scenario, system: System, seeds: Iterable[int], end: float = WEEK) -> Measures:
    """A mean week: the longest waits are those of all weeks, all else is their mean."""
    return _mean([_week(scenario, system, seed, end) for seed in seeds])


def table(seeds: Sequence[int], end: float = WEEK, names: Sequence[str] = ()) -> str:
    """Markdown: a row for each measure, a column for each scenario and system."""
    scenarios = [one for one in SCENARIOS if not names or one.name in names]
    columns = [(scenario, system) for scenario in scenarios for system in SYSTEMS]
    found = [weeks(scenario, system, seeds, end) for scenario, system in columns]
    head = [f"{scenario.name}: {system.name}" for scenario, system in columns]
    rows = [[name, *map(shown, found)] for name, shown in ROWS]
    return "".join(map(_line, [["a week", *head], ["---", *("---:" for _ in head)], *rows]))


def _week(scenario: Scenario, system: System, seed: int, end: float) -> Measures:
    box = system.box(load_of(scenario, seed, end))
    box.run()
    return measured(box)


def _mean(found: Sequence[Measures]) -> Measures:
    return msgspec.convert(
        {name: _joined(name, [getattr(one, name) for one in found]) for name in _FIELDS}, Measures
    )


_FIELDS = Measures.__struct_fields__


def _joined(name: str, values: Sequence[float]) -> float:
    if name in LONGEST:
        return max(values)
    return round(fmean(values)) if isinstance(values[0], int) else fmean(values)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
