"""Rows for slime and Miles: their `Sample`, as in the files of `--load-debug-rollout-data`."""

from typing import Any

import msgspec

from gateway_plugins.trace_capture.exports.arrays import Array
from gateway_plugins.trace_capture.exports.rollout import Rollout
from gateway_plugins.trace_capture.exports.trainers.messages import facts_of, string


class SlimeRow(msgspec.Struct):
    """A sample; `loss_mask` and `rollout_log_probs` have one number per token of the response.

    `rollout_routed_experts` has a row for each token but the last, `rollout_top_token_ids` and
    `rollout_top_logprobs` one for each of the response.
    """

    index: int
    group_index: int
    rollout_id: int
    prompt: list[dict[str, Any]]
    tokens: list[int]
    response: str
    response_length: int
    label: str | None
    reward: float | None
    loss_mask: list[int]
    weight_versions: list[str]
    rollout_log_probs: list[float]
    rollout_routed_experts: Array | None
    status: str
    metadata: dict[str, Any]
    rollout_top_token_ids: Array | None
    rollout_top_logprobs: Array | None


def row_of(rollout: Rollout) -> SlimeRow:
    metadata, top = rollout.session.metadata, rollout.top()
    group = metadata.get("group_index")
    return SlimeRow(
        index=rollout.number,
        group_index=group if isinstance(group, int) else rollout.session_number,
        rollout_id=rollout.session_number,
        prompt=rollout.prompt,
        tokens=rollout.trajectory.token_ids,
        response=rollout.text,
        response_length=len(rollout.response_ids),
        label=string(metadata.get("label")),
        reward=rollout.reward,
        loss_mask=rollout.response_mask,
        weight_versions=rollout.weight_versions,
        rollout_log_probs=rollout.response_logprobs,
        rollout_routed_experts=rollout.experts(),
        status=_status(rollout),
        metadata=msgspec.to_builtins(facts_of(rollout)) | {"messages": _all_messages(rollout)},
        rollout_top_token_ids=None if top is None else top.ids,
        rollout_top_logprobs=None if top is None else top.logprobs,
    )


def _status(rollout: Rollout) -> str:
    if not rollout.turns[-1].whole:
        return "aborted"
    return "truncated" if rollout.truncated else "completed"


def _all_messages(rollout: Rollout) -> list[dict[str, Any]]:
    return [*rollout.prompt, *rollout.completion]
