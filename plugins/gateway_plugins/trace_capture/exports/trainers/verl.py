"""Rows for verl: the names of its agent loops' output, and of the columns of its data sets."""

import msgspec

from gateway_plugins.trace_capture.exports.arrays import Array
from gateway_plugins.trace_capture.exports.rollout import Rollout
from gateway_plugins.trace_capture.exports.trainers.messages import (
    Facts,
    Message,
    facts_of,
    messages_of,
    string,
    top_lists,
)


class RewardModel(msgspec.Struct):
    """What verl's reward functions compare an answer with."""

    style: str
    ground_truth: str


class VerlRow(msgspec.Struct):
    """`prompt_ids` to `num_turns` are those of AgentLoopOutput; the lists of the response are as
    long as `response_ids`. The other columns are those of RLHFDataset and MultiTurnSFTDataset.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    response_logprobs: list[float | None]
    routed_experts: Array | None
    reward_score: float | None
    num_turns: int
    top_token_ids: list[list[int]] | None
    top_logprobs: list[list[float | None]] | None
    weight_versions: list[str | None]
    data_source: str
    prompt: list[Message]
    messages: list[Message]
    reward_model: RewardModel
    extra_info: Facts


def row_of(rollout: Rollout) -> VerlRow:
    metadata, top = rollout.session.metadata, top_lists(rollout)
    prompt, completion = messages_of(rollout.prompt), messages_of(rollout.completion)
    truth = string(metadata.get("ground_truth")) or ""
    return VerlRow(
        prompt_ids=rollout.prompt_ids,
        response_ids=rollout.response_ids,
        response_mask=rollout.response_mask,
        response_logprobs=list(rollout.response_logprobs),
        routed_experts=rollout.experts(),
        reward_score=rollout.reward,
        num_turns=len(prompt) + len(completion),
        top_token_ids=None if top is None else top.ids,
        top_logprobs=None if top is None else top.logprobs,
        weight_versions=rollout.response_versions,
        data_source=string(metadata.get("data_source")) or "gateway",
        prompt=prompt,
        messages=[*prompt, *completion],
        reward_model=RewardModel("rule", truth),
        extra_info=facts_of(rollout),
    )
