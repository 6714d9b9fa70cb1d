"""Rows for NeMo-RL: messages for its data sets, and a message log with the tokens themselves."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway_plugins.trace_capture.exports.arrays import Array, Top
from gateway_plugins.trace_capture.exports.rollout import Rollout, Turn
from gateway_plugins.trace_capture.exports.trainers.messages import Facts, facts_of


class LogMessage(msgspec.Struct):
    """A run of tokens that are all trained (`assistant`), or none of them (`user`).

    Only what is trained has `generation_logprobs`, by which NeMo-RL makes its masks.
    """

    role: str
    content: str
    token_ids: list[int]
    token_loss_mask: list[int]
    generation_logprobs: list[float] | UnsetType = UNSET


class NemoRlRow(msgspec.Struct):
    """`message_log`, `length`, `loss_multiplier`, `idx` and `extra_env_info` make a DatumSpec.

    `messages` and `tools` are as data sets in OpenAI's format have them.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    message_log: list[LogMessage]
    length: int
    loss_multiplier: float
    idx: int
    reward: float | None
    weight_versions: list[str | None]
    routed_experts: Array | None
    top_logprobs: Top | None
    extra_env_info: Facts


def row_of(rollout: Rollout) -> NemoRlRow:
    token_ids = rollout.trajectory.token_ids
    return NemoRlRow(
        messages=[*rollout.prompt, *rollout.completion],
        tools=rollout.tools,
        message_log=_log(rollout),
        length=len(token_ids),
        loss_multiplier=1.0,
        idx=rollout.number,
        reward=rollout.reward,
        weight_versions=[*[None] * rollout.start, *rollout.response_versions],
        routed_experts=rollout.experts(),
        top_logprobs=rollout.top(),
        extra_env_info=facts_of(rollout),
    )


def _log(rollout: Rollout) -> list[LogMessage]:
    token_ids, logprobs = rollout.trajectory.token_ids, rollout.response_logprobs
    found: list[LogMessage] = []
    at = 0
    for turn in rollout.trained:
        found += _untrained(token_ids[at : turn.start])
        found.append(_answer(turn, token_ids[turn.start : turn.stop]))
        first, end = turn.start - rollout.start, turn.stop - rollout.start
        found[-1].generation_logprobs = logprobs[first:end]
        at = turn.stop
    return found + _untrained(token_ids[at:])


def _answer(turn: Turn, token_ids: list[int]) -> LogMessage:
    text = turn.answer.get("content")
    content = text if isinstance(text, str) else ""
    return LogMessage("assistant", content, token_ids, [1] * len(token_ids))


def _untrained(token_ids: list[int]) -> list[LogMessage]:
    return [LogMessage("user", "", token_ids, [0] * len(token_ids))] if token_ids else []
