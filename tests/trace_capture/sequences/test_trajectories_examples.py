"""Branches of sessions that one meets: retries, re-tokenised answers, incomplete choices."""

import hashlib
from collections.abc import Iterator

import msgspec
import pytest
from gateway_plugins.trace_capture.sequences import lineage
from gateway_plugins.trace_capture.sequences.trajectories import trajectories

from gateway import Divergence, Reason, Reward, Trace, TraceChoice, Trajectory

SYSTEM = list(range(100, 120))


def choice(
    prompt: list[int],
    sampled: list[int],
    logprobs: list[float | None] | None = None,
    reasons: tuple[Reason, ...] = (),
) -> TraceChoice:
    return TraceChoice(
        prompt_token_ids=prompt,
        token_ids=sampled,
        logprobs=[-0.5] * len(sampled) if logprobs is None else logprobs,
        verdict="INCOMPLETE" if reasons else "COMPLETE",
        reasons=list(reasons),
    )


def trace(trace_id: str, *choices: TraceChoice, divergence: Divergence | None = None) -> Trace:
    return Trace(
        trace_id=trace_id,
        choices=list(choices),
        divergence=divergence,
        weight_version="v1",
        verdict="COMPLETE",
    )


def branches(*traces: Trace) -> list[Trajectory]:
    return trajectories("s", traces, []).trajectories


def test_trajectory_joins_consecutive_turns() -> None:
    [only] = branches(trace("a", choice([1, 2], [3, 4])), trace("b", choice([1, 2, 3, 4, 5], [6])))
    assert only.token_ids == [1, 2, 3, 4, 5, 6]
    assert only.loss_mask == [0, 0, 1, 1, 0, 1]
    assert only.logprobs == [None, None, -0.5, -0.5, None, -0.5]
    assert only.weight_versions == [None, None, "v1", "v1", None, "v1"]
    assert (only.trace_ids, only.choices, only.verdict) == (["a", "b"], [0, 0], "COMPLETE")
    assert (only.branched_from, only.shared, only.divergence) == (None, 0, None)


def test_trajectories_split_at_a_retry_and_keep_the_abandoned_turn() -> None:
    abandoned, taken, second_choice = branches(
        trace("a", choice([1, 2], [3]), choice([1, 2], [9])),
        trace("b", choice([1, 2, 3, 5], [6, 7])),
        trace("c", choice([1, 2, 3, 5], [6, 8])),
        trace("d", choice([1, 2, 3, 5, 6, 8, 5], [6])),
    )
    assert abandoned.trace_ids == ["a", "b"]
    assert abandoned.loss_mask == [0, 0, 1, 0, 1, 1]
    assert taken.trace_ids == ["a", "c", "d"]
    assert taken.loss_mask == [0, 0, 0, 0, 1, 1, 0, 1]
    assert (taken.branched_from, taken.shared) == (0, 4)
    assert (second_choice.trace_ids, second_choice.choices) == (["a"], [1])
    assert second_choice.loss_mask == [0, 0, 1]
    assert second_choice.shared == 2


def test_trajectory_continues_from_the_later_of_equal_retries() -> None:
    found = branches(
        trace("a", choice([1], [2])),
        trace("b", choice([1], [2])),
        trace("c", choice([1, 2, 3], [4])),
    )
    assert [one.trace_ids for one in found] == [["a"], ["b", "c"]]
    assert [one.loss_mask for one in found] == [[0, 1], [0, 1, 0, 1]]


def test_trajectory_ends_at_a_retokenised_response() -> None:
    left = Divergence(trace_id="b", choice=0, at=24, cause="retokenised_completion")
    turn = [*SYSTEM, 3, 4, 5]
    sampled, again = branches(
        trace("a", choice([*SYSTEM, 3], [4])),
        trace("b", choice(turn, [6, 7, 8])),
        trace("c", choice([*turn, 6, 9, 8, 5], [1]), divergence=left),
    )
    assert sampled.trace_ids == ["a", "b"]
    assert sampled.loss_mask == [0] * 21 + [1, 0, 1, 1, 1]
    assert again.trace_ids == ["a", "c"]
    assert again.loss_mask == [0] * 27 + [1]
    assert (again.branched_from, again.shared, again.divergence) == (0, 24, left)


def test_trajectories_of_another_conversation_share_nothing() -> None:
    _, other, third = branches(
        trace("a", choice([1, 2, 3], [4])),
        trace("b", choice([1, 2, 8, 8], [4])),
        trace("c", choice([*SYSTEM, 8], [4])),
    )
    assert (other.branched_from, other.shared) == (None, 0)
    assert (third.branched_from, third.shared) == (None, 0)


def test_trajectory_branches_from_a_long_shared_prompt() -> None:
    _, fork = branches(trace("a", choice([*SYSTEM, 1], [4])), trace("b", choice([*SYSTEM, 2], [4])))
    assert (fork.branched_from, fork.shared) == (0, 20)


def test_trajectory_keeps_the_tokens_of_an_incomplete_choice() -> None:
    [only] = branches(
        trace("a", choice([1], [2, 3], reasons=("caller_gone",))),
        trace("b", choice([1, 2, 3, 4], [5])),
    )
    assert only.loss_mask == [0, 1, 1, 0, 1]
    assert (only.verdict, only.reasons) == ("INCOMPLETE", ["caller_gone"])


def test_trajectory_stays_complete_beside_an_incomplete_choice() -> None:
    good, bad = branches(trace("a", choice([1], [2]), choice([1], [3], reasons=("aborted",))))
    assert (good.verdict, good.reasons) == ("COMPLETE", [])
    assert (bad.verdict, bad.reasons) == ("INCOMPLETE", ["aborted"])


@pytest.mark.parametrize(
    ("logprobs", "kept", "reason"),
    [
        ([], [None, None], "logprobs_missing"),
        ([-1.0], [-1.0, None], "counts_differ"),
        ([-1.0, -2.0, -3.0], [-1.0, -2.0], "counts_differ"),
    ],
)
def test_trajectory_is_incomplete_if_logprobs_and_tokens_differ_in_number(
    logprobs: list[float | None], kept: list[float | None], reason: str
) -> None:
    [only] = branches(trace("a", choice([1], [2, 3], logprobs)))
    assert only.logprobs == [None, *kept]
    assert (only.verdict, only.reasons) == ("INCOMPLETE", [reason])


def test_trajectory_keeps_null_logprobs_of_a_complete_choice() -> None:
    [only] = branches(trace("a", choice([1], [2, 3], [None, -1.0])))
    assert (only.logprobs, only.verdict) == ([None, None, -1.0], "COMPLETE")


def test_trajectories_leave_out_traces_without_tokens_and_give_reasons() -> None:
    nothing_sampled = trace("a", choice([1], [], reasons=("caller_gone",)))
    failed = Trace(trace_id="b", reasons=["error_answer"])
    no_prompt = trace("c", choice([], [5]))
    no_token = trace("d", choice([1], [2**40]))
    turn = trace("e", choice([1, 2], [3]))
    made = trajectories("s", [nothing_sampled, failed, no_prompt, no_token, turn], [])
    assert [one.trace_ids for one in made.trajectories] == [["e"]]
    assert made.trajectories[0].verdict == "COMPLETE"
    assert made.left_out == {
        "a": ["caller_gone"],
        "b": ["error_answer"],
        "c": ["token_ids_missing"],
        "d": ["token_ids_missing"],
    }


def test_trajectory_includes_a_trace_without_choices() -> None:
    flat = Trace(
        trace_id="a",
        prompt_token_ids=[1],
        completion_token_ids=[2],
        logprobs=[-1.0],
        verdict="COMPLETE",
    )
    [only] = branches(flat, trace("b", choice([1, 2, 3], [4])))
    assert (only.trace_ids, only.loss_mask) == (["a", "b"], [0, 1, 0, 1])


def test_trajectories_keep_the_prompts_of_one_call_apart() -> None:
    found = branches(trace("a", choice([1], [2]), choice([1, 2, 3], [4])))
    assert [one.choices for one in found] == [[0], [1]]
    assert [sum(one.loss_mask) for one in found] == [1, 1]


def test_trajectories_of_an_empty_session_keep_its_rewards() -> None:
    made = trajectories("s", [], [Reward(value=0.5)])
    assert (made.session_id, made.trajectories, made.left_out) == ("s", [], {})
    assert made.rewards == [Reward(value=0.5)]


class Counting:
    """blake2b that counts the bytes it is given."""

    hashed = 0

    def __init__(self, inner: "hashlib.blake2b | None" = None, *, digest_size: int = 8) -> None:
        self._inner = inner or hashlib.blake2b(digest_size=digest_size)

    def update(self, data: memoryview) -> None:
        Counting.hashed += len(data)
        self._inner.update(data)

    def copy(self) -> "Counting":
        return Counting(self._inner.copy())

    def digest(self) -> bytes:
        return self._inner.digest()


def long_session(turns: int) -> Iterator[Trace]:
    history: list[int] = []
    for turn in range(turns):
        prompt = [*history, turn, 1]
        history = [*prompt, 2, turn]
        yield trace(f"t{turn}", choice(prompt, [2, turn]))


def test_trajectories_hash_each_token_of_a_long_session_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0
    common_prefix = lineage.common_prefix

    def counting(one: bytes, other: bytes) -> int:
        nonlocal compared
        compared += 1
        return common_prefix(one, other)

    monkeypatch.setattr(lineage, "common_prefix", counting)
    begun = msgspec.structs.replace(lineage._EMPTY, hasher=Counting())
    monkeypatch.setattr(lineage, "_EMPTY", begun)
    monkeypatch.setattr(Counting, "hashed", 0)
    [only] = trajectories("s", long_session(3000)).trajectories
    assert sum(only.loss_mask) == 6000
    assert len(only.trace_ids) == 3000
    assert Counting.hashed == 3000 * 4 * 4
    assert compared == 2999
