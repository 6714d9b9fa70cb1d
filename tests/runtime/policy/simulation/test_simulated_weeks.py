"""The table of simulated weeks in docs/runtime.md."""

import pytest
from gateway_plugins.runtime.options import Rules
from gateway_plugins.runtime.policy.simulation.__main__ import main
from gateway_plugins.runtime.policy.simulation.load import DAY, SCENARIOS, Scenario
from gateway_plugins.runtime.policy.simulation.weeks import (
    OURS,
    PATIENT,
    REPLACED,
    SYSTEMS,
    System,
    table,
    weeks,
)
from support.paths import DOCS

PAGE = (DOCS / "runtime.md").read_text()
SEEDS = (1, 2, 3, 4, 5)
QUIET, USUAL, BUSY = SCENARIOS


def test_the_table_has_a_column_for_each_load_and_system() -> None:
    head, _, *rows = table([1], DAY / 4, ["quiet"]).splitlines()
    assert head.count("|") == 2 + len(SYSTEMS)
    assert {row.count("|") for row in rows} == {head.count("|")}


@pytest.mark.slow
def test_the_table_of_the_manual_has_these_rows() -> None:
    for row in table([1], DAY / 4).splitlines():
        assert f"\n{row.split(' | ')[0]} | " in PAGE
    assert table([1], DAY / 4).splitlines()[0] in PAGE


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_the_table_of_the_manual_is_what_the_simulation_finds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["weeks"])
    assert capsys.readouterr().out in PAGE, "run `make simulate-weeks`"


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(("scenario", "system"), [(QUIET, OURS), (USUAL, OURS), (BUSY, SYSTEMS[2])])
def test_weeks_have_fewer_long_waits(scenario: Scenario, system: System) -> None:
    """By either count: until they are served, and until the model is there for them."""
    theirs, ours = weeks(scenario, REPLACED, SEEDS), weeks(scenario, system, SEEDS)
    assert ours.long_waits < min(theirs.long_waits, theirs.long_unready)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(
    ("scenario", "system", "max_wait"),
    [*((one, OURS, Rules().max_wait) for one in SCENARIOS), (BUSY, SYSTEMS[2], PATIENT.max_wait)],
)
def test_weeks_have_no_item_that_starves(
    scenario: Scenario, system: System, max_wait: float
) -> None:
    ours = weeks(scenario, system, SEEDS)
    assert ours.max_wait <= max_wait
    assert ours.lost == 0
