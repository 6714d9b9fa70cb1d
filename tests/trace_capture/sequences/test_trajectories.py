"""Branches of a session: random trees of turns, held against what a search through all finds."""

from collections import Counter

import msgspec
import pytest
from gateway_plugins.trace_capture.sequences.trajectories import MIN_SHARED_TOKENS, trajectories
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import Reward, Trace, TraceChoice, Trajectories

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


class Step(msgspec.Struct, frozen=True):
    """How a call comes about: from which choice so far, what is added, and what is sampled.

    `breaks_off`: the responses are INCOMPLETE.
    """

    kind: str
    origin: int
    cut: int
    user: list[int]
    sampled: list[list[int]]
    breaks_off: bool


STEPS = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["turn", "turn", "turn", "fork", "retry", "retokenised", "root"]),
        origin=st.integers(0, 1000),
        cut=st.integers(0, 1000),
        user=IDS,
        sampled=st.lists(IDS, min_size=1, max_size=3),
        breaks_off=st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


def sequence(choice: TraceChoice) -> list[int]:
    return choice.prompt_token_ids + choice.token_ids


def prompt_of(step: Step, earlier: list[TraceChoice]) -> list[int]:
    if step.kind == "root" or not earlier:
        return step.user
    origin = earlier[step.origin % len(earlier)]
    if step.kind == "retry":
        return origin.prompt_token_ids
    if step.kind == "retokenised":
        return [*origin.prompt_token_ids, 7, *origin.token_ids[1:], *step.user]
    whole = sequence(origin)
    return (whole[: step.cut % len(whole)] if step.kind == "fork" else whole) + step.user


def choice_of(place: int, prompt: list[int], sampled: list[int], breaks_off: bool) -> TraceChoice:
    return TraceChoice(
        index=place,
        prompt_token_ids=prompt,
        token_ids=sampled,
        logprobs=[-1.0 - place - at for at in range(len(sampled))],
        verdict="INCOMPLETE" if breaks_off else "COMPLETE",
        reasons=["unfinished"] if breaks_off else [],
    )


def grow(steps: list[Step]) -> list[Trace]:
    traces: list[Trace] = []
    choices: list[TraceChoice] = []
    for number, step in enumerate(steps):
        prompt = prompt_of(step, choices)
        made = [
            choice_of(place, prompt, ids, step.breaks_off) for place, ids in enumerate(step.sampled)
        ]
        traces.append(Trace(trace_id=f"t{number}", weight_version=number, choices=made))
        choices += made
    return traces


SESSIONS = STEPS.map(grow)
Place = tuple[str, int]


def by_place(traces: list[Trace]) -> dict[Place, TraceChoice]:
    return {(t.trace_id, place): c for t in traces for place, c in enumerate(t.choices)}


def parent_by_search(traces: list[Trace], trace_id: str, prompt: list[int]) -> Place | None:
    """The longest sequence of the traces before, of equal ones the latest.

    In place of a response that broke off, and whose prompt was sent again since, its own parent.
    """
    best, longest = None, 0
    earlier = traces[: [trace.trace_id for trace in traces].index(trace_id)]
    for trace in earlier:
        for place, choice in enumerate(trace.choices):
            whole = sequence(choice)
            if len(whole) >= longest and prompt[: len(whole)] == whole:
                best, longest = (trace.trace_id, place), len(whole)
    while best is not None and is_given_up(earlier, best):
        best = parent_by_search(traces, best[0], by_place(traces)[best].prompt_token_ids)
    return best


def is_given_up(traces: list[Trace], place: Place) -> bool:
    choice = by_place(traces)[place]
    after = traces[[trace.trace_id for trace in traces].index(place[0]) + 1 :]
    again = any(one.choices[0].prompt_token_ids == choice.prompt_token_ids for one in after)
    return again and choice.verdict == "INCOMPLETE"


def places(made: Trajectories) -> list[list[Place]]:
    return [list(zip(b.trace_ids, b.choices, strict=True)) for b in made.trajectories]


def counts_each_token_once(traces: list[Trace]) -> None:
    choices, counted = by_place(traces), Counter[tuple[Place, int]]()
    made = trajectories("s", traces, [])
    for branch, turns in zip(made.trajectories, places(made), strict=True):
        left = dict(enumerate(branch.loss_mask))
        for turn in turns:
            start = len(choices[turn].prompt_token_ids)
            for at, token in enumerate(choices[turn].token_ids):
                assert branch.token_ids[start + at] == token
                counted[turn, at] += left.pop(start + at)
        assert not any(left.values())
    wanted = {(turn, at) for turn, choice in choices.items() for at in range(len(choice.token_ids))}
    assert counted == dict.fromkeys(wanted, 1)


@given(SESSIONS)
def test_trajectories_count_each_sampled_token_once(traces: list[Trace]) -> None:
    counts_each_token_once(traces)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=10_000)
@given(SESSIONS)
def test_ten_thousand_trees_count_each_sampled_token_once(traces: list[Trace]) -> None:
    counts_each_token_once(traces)


@given(SESSIONS)
def test_all_branches_but_the_first_have_a_kind_of_fork(traces: list[Trace]) -> None:
    kinds = [branch.fork_kind for branch in trajectories("s", traces, []).trajectories]
    assert kinds[0] is None
    assert None not in kinds[1:]


@given(SESSIONS)
def test_trajectory_is_its_last_prompt_and_completion(traces: list[Trace]) -> None:
    choices = by_place(traces)
    made = trajectories("s", traces, [])
    for branch, turns in zip(made.trajectories, places(made), strict=True):
        assert branch.token_ids == sequence(choices[turns[-1]])


@given(SESSIONS)
def test_trajectory_has_logprobs_and_versions_exactly_under_its_loss_mask(
    traces: list[Trace],
) -> None:
    choices = by_place(traces)
    made = trajectories("s", traces, [])
    for branch, turns in zip(made.trajectories, places(made), strict=True):
        for values in (branch.logprobs, branch.weight_versions):
            assert [value is not None for value in values] == list(map(bool, branch.loss_mask))
        for trace_id, place in turns:
            choice = choices[trace_id, place]
            span = slice(len(choice.prompt_token_ids), len(sequence(choice)))
            if any(branch.loss_mask[span]):
                assert branch.logprobs[span] == choice.logprobs
                assert set(branch.weight_versions[span]) == {int(trace_id[1:])}


@given(SESSIONS)
def test_trajectories_are_the_paths_to_the_leaves(traces: list[Trace]) -> None:
    parents = {
        turn: parent_by_search(traces, turn[0], choice.prompt_token_ids)
        for turn, choice in by_place(traces).items()
    }
    found = places(trajectories("s", traces, []))
    for turns in found:
        assert [parents[turn] for turn in turns] == [None, *turns[:-1]]
    assert {turns[-1] for turns in found} == set(parents) - set(parents.values())
    order = [[(int(trace_id[1:]), place) for trace_id, place in turns] for turns in found]
    assert order == sorted(order)


@given(SESSIONS)
def test_trajectory_names_its_branch_point_and_shared_length(traces: list[Trace]) -> None:
    branches = trajectories("s", traces, []).trajectories
    assert [branch.index for branch in branches] == list(range(len(branches)))
    for branch in branches:
        earlier = [shared(branch.token_ids, e.token_ids) for e in branches[: branch.index]]
        own = branch.loss_mask.index(1)
        if branch.branched_from is None:
            assert branch.shared == 0
            assert max(earlier, default=0) < max(MIN_SHARED_TOKENS, 1)
            continue
        assert branch.branched_from < branch.index
        assert branch.shared == min(max(earlier), own)
        assert earlier[branch.branched_from] >= branch.shared


def shared(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@given(SESSIONS)
def test_trajectories_carry_the_rewards_of_their_traces(traces: list[Trace]) -> None:
    rewards = [Reward(value=1.0)] + [Reward(value=2.0, trace_id=t.trace_id) for t in traces]
    made = trajectories("s", traces, rewards)
    assert made.rewards == rewards
    for branch in made.trajectories:
        assert {reward.trace_id for reward in branch.rewards} == set(branch.trace_ids)
