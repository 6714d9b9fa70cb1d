"""Which open trajectories of a session cover others, found without a comparison of all pairs."""

from gateway_plugins.trace_capture.handover.turns import (
    Coverage,
    Open,
    Turn,
    pack_turns,
    read_turns,
)
from hypothesis import given
from hypothesis import strategies as st
from support.records.step_counts import Steps


def row(turns: list[int], complete: int = 1) -> Open:
    packed = pack_turns([Turn(f"trace-{one}", 0, None) for one in turns])
    return Open(
        "s", f"leaf-{turns}", complete, None, 0.0, "m", "", "none", complete, None, 1, 1, 0, packed
    )


ROWS = st.builds(row, st.lists(st.integers(0, 5), min_size=1, unique=True), st.integers(0, 1))


def covers(one: Open, other: Open) -> bool:
    """The rule, for one pair."""
    keys = {turn.key for turn in read_turns(one.turns)}
    within = all(turn.key in keys for turn in read_turns(other.turns))
    return within and one.complete >= other.complete


@given(st.lists(ROWS, max_size=8, unique=True), ROWS)
def test_coverage_equals_a_comparison_of_all_pairs(rows: list[Open], asked: Open) -> None:
    coverage = Coverage(rows)
    assert (coverage.carry(asked) is not None) == any(covers(one, asked) for one in rows)
    within = [one for one in rows if covers(asked, one)]
    assert sorted(coverage.take_within(asked)) == sorted(within)
    left = [one for one in rows if one not in within]
    assert (coverage.carry(asked) is not None) == any(covers(one, asked) for one in left)


def test_steps_of_a_branch_do_not_grow_with_the_number_of_branches() -> None:
    """A tree search can have thousands: what grew with their square held up the only writer."""
    few, many = [_steps(branches) / branches for branches in (20, 200)]
    assert many < 1.5 * few


def _steps(branches: int) -> int:
    trunk, steps = list(range(10)), Steps()
    rows = [row([*trunk, 100 + place]) for place in range(branches)]
    with steps:
        coverage = Coverage(rows)
        for one in rows:
            coverage.carry(one)
            coverage.take_within(one)
            coverage.add(one)
    return steps.taken
