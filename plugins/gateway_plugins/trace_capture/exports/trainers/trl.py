"""Rows for TRL: what a `rollout_func` returns, and the columns of a data set that is tokenized."""

import msgspec

from gateway_plugins.trace_capture.exports.arrays import Array
from gateway_plugins.trace_capture.exports.rollout import Rollout
from gateway_plugins.trace_capture.exports.trainers.messages import (
    Facts,
    Message,
    facts_of,
    messages_of,
    top_lists,
)

NO_LABEL = -100
"""The label of a token without a loss."""


class TrlRow(msgspec.Struct):
    """`env_mask` and `logprobs` are as long as `completion_ids`, `labels` as long as `input_ids`.

    `prompt` and `completion` are for the reader: the tokens are what was sampled.
    """

    prompt: list[Message]
    completion: list[Message]
    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float | None]
    env_mask: list[int]
    input_ids: list[int]
    labels: list[int]
    reward: float | None
    routed_experts: Array | None
    top_token_ids: list[list[int]] | None
    top_logprobs: list[list[float | None]] | None
    weight_versions: list[str | None]
    info: Facts


def row_of(rollout: Rollout) -> TrlRow:
    token_ids, top = rollout.trajectory.token_ids, top_lists(rollout)
    pairs = zip(token_ids, rollout.mask, strict=True)
    return TrlRow(
        prompt=messages_of(rollout.prompt),
        completion=messages_of(rollout.completion),
        prompt_ids=rollout.prompt_ids,
        completion_ids=rollout.response_ids,
        logprobs=list(rollout.response_logprobs),
        env_mask=rollout.response_mask,
        input_ids=token_ids,
        labels=[token if trained else NO_LABEL for token, trained in pairs],
        reward=rollout.reward,
        routed_experts=rollout.experts(),
        top_token_ids=None if top is None else top.ids,
        top_logprobs=None if top is None else top.logprobs,
        weight_versions=rollout.response_versions,
        info=facts_of(rollout),
    )
