"""Rows of traces and trajectories as the gateway itself has them."""

from itertools import accumulate
from typing import Any

import msgspec

from gateway import Reward, SessionInfo, Trace, TraceChoice, Trajectory
from gateway_plugins.trace_capture.exports.arrays import (
    NO_ID,
    Array,
    Top,
    experts_of,
    texts_of,
    top_of,
)
from gateway_plugins.trace_capture.exports.rollout import Turn, experts_of_turns, top_of_turns


class TrajectoryRow(Trajectory, kw_only=True):
    """A self-contained trajectory: with its session's id and metadata.

    `session_rewards` are the rewards of the session as a whole, `rewards` those of the trajectory's
    traces. `session_lost` is the number of the session's calls that could not be stored.
    `top_logprobs` has a row for each token whose mask is 1, `routed_experts` one for each token but
    the last; both are None if an engine did not send them.
    """

    session_id: str
    session_metadata: dict[str, Any]
    session_rewards: list[Reward]
    session_lost: int
    top_logprobs: Top | None = None
    routed_experts: Array | None = None


def row_of(one: Trajectory, session: SessionInfo, rewards: list[Reward]) -> TrajectoryRow:
    """Return the row of a trajectory; `rewards` are those of the session as a whole."""
    return TrajectoryRow(
        **msgspec.structs.asdict(one),
        session_id=session.session_id,
        session_metadata=session.metadata,
        session_rewards=rewards,
        session_lost=session.lost,
    )


def add_arrays(row: TrajectoryRow, turns: list[Turn]) -> None:
    """Set the packed arrays of a row. Raises ValueError if they are too large."""
    row.routed_experts = experts_of_turns(turns)
    owned = [turn for turn in turns if turn.owned]
    sizes = [turn.stop - turn.start for turn in owned]
    starts = accumulate(sizes, initial=0)
    tops = [turn.top for turn in owned]
    row.top_logprobs = top_of_turns(zip(tops, starts, strict=False), sum(sizes))


class ChoiceRow(TraceChoice, kw_only=True):
    """A choice with packed arrays; `top_tokens` are the texts of alternatives named by text only.

    `raw_response` of the trace has all of them as the engine sent them.
    """

    top_logprobs: Top | None = None  # type: ignore[assignment]
    routing_matrices: Array | None = None
    top_tokens: list[list[str]] | None = None


class TraceRow(Trace, kw_only=True):
    """A trace with packed arrays in its choices."""

    routing_matrices: Array | None = None
    choices: list[ChoiceRow] = msgspec.field(default_factory=list)  # type: ignore[assignment]


def trace_row(trace: Trace) -> TraceRow:
    """Return the row of a trace for files that can pack."""
    fields = {name: getattr(trace, name) for name in Trace.__struct_fields__}
    tokens = len(trace.prompt_token_ids) + len(trace.completion_token_ids)
    fields["routing_matrices"] = experts_of(trace.routing_matrices, tokens)
    fields["choices"] = list(map(_choice_row, trace.choices))
    return TraceRow(**fields)


def _choice_row(choice: TraceChoice) -> ChoiceRow:
    fields = {name: getattr(choice, name) for name in TraceChoice.__struct_fields__}
    tokens = len(choice.prompt_token_ids) + len(choice.token_ids)
    top = top_of(choice.top_logprobs, choice.token_ids, choice.tokens)
    fields["routing_matrices"] = experts_of(choice.routing_matrices, tokens)
    fields["top_logprobs"] = top
    row = ChoiceRow(**fields)
    if top is not None and NO_ID in top.ids.numbers():
        row.top_tokens = texts_of(choice.top_logprobs)
    return row
