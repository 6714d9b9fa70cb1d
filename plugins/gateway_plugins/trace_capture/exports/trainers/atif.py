"""Rows for readers of ATIF, the Agent Trajectory Interchange Format of Harbor, version 1.7.

A step is a message. An answer that is a turn of the trajectory has its tokens in `metrics`; one
that an earlier branch has too is marked as copied. Results of tools belong to the step before.
"""

import json
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from gateway_plugins.trace_capture.exports.rollout import Rollout, Turn
from gateway_plugins.trace_capture.exports.trainers.messages import (
    calls_of,
    facts_of,
    reasoning_of,
    string,
    text_of,
)

VERSION = "ATIF-v1.7"

UNKNOWN = "unknown"
"""The name and the version of an agent that does not tell them."""

_SOURCES = {"user": "user", "assistant": "agent", "tool": "user", "function": "user"}


class Agent(Struct, omit_defaults=True):
    name: str
    version: str
    model_name: str
    tool_definitions: list[dict[str, Any]] | None = None


class Call(Struct):
    tool_call_id: str
    function_name: str
    arguments: dict[str, Any]


class Result(Struct, omit_defaults=True):
    content: str
    source_call_id: str | None = None
    extra: dict[str, Any] | None = None


class Observation(Struct):
    results: list[Result]


class Metrics(Struct, omit_defaults=True):
    """Numbers of one answer. The ids of the prompt are the whole of it, as the format has them."""

    prompt_tokens: int
    completion_tokens: int
    prompt_token_ids: list[int]
    completion_token_ids: list[int]
    logprobs: list[float] | None = None
    extra: dict[str, Any] | None = None


class Step(Struct, omit_defaults=True):
    step_id: int
    source: str
    message: str
    timestamp: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    observation: Observation | None = None
    metrics: Metrics | None = None
    is_copied_context: bool | None = None
    llm_call_count: int | None = None


class FinalMetrics(Struct):
    total_prompt_tokens: int
    total_completion_tokens: int
    total_steps: int
    extra: dict[str, Any]


class AtifRow(Struct, omit_defaults=True):
    """A trajectory document."""

    schema_version: str
    session_id: str
    trajectory_id: str
    agent: Agent
    steps: list[Step]
    final_metrics: FinalMetrics
    extra: dict[str, Any]


def row_of(rollout: Rollout) -> AtifRow:
    steps = _steps(rollout)
    measured = [step.metrics for step in steps if step.metrics is not None]
    harness = rollout.last.harness
    return AtifRow(
        schema_version=VERSION,
        session_id=rollout.session.session_id,
        trajectory_id=rollout.id,
        agent=Agent(
            name=UNKNOWN if harness is None else harness.name,
            version=UNKNOWN,
            model_name=rollout.last.model,
            tool_definitions=rollout.tools or None,
        ),
        steps=steps,
        final_metrics=FinalMetrics(
            total_prompt_tokens=sum(one.prompt_tokens for one in measured),
            total_completion_tokens=sum(one.completion_tokens for one in measured),
            total_steps=len(steps),
            extra={"reward": rollout.reward},
        ),
        extra={**asdict(facts_of(rollout)), "routed_experts": rollout.experts()},
    )


def _steps(rollout: Rollout) -> list[Step]:
    """Return a step for each message; a result of a tool is part of the step that called it.

    A turn whose answer is not where its request ended has a step of its own there.
    """
    turns = list(rollout.turns)
    steps: list[Step] = []
    for place, message in enumerate([*rollout.prompt, *rollout.completion]):
        here = [turn for turn in turns if turn.asked <= place]
        turns = turns[len(here) :]
        own = here.pop() if here and message.get("role") == "assistant" else None
        steps += [_answer(turn.answer, turn, rollout) for turn in here]
        if own is not None:
            steps.append(_answer(message, own, rollout))
        elif not _is_result(message) or not steps or steps[-1].source != "agent":
            steps.append(_step(message))
        else:
            _add_result(steps[-1], message)
    steps += [_answer(turn.answer, turn, rollout) for turn in turns]
    for number, step in enumerate(steps, 1):
        step.step_id = number
    return steps


def _is_result(message: dict[str, Any]) -> bool:
    return message.get("role") in ("tool", "function")


def _step(message: dict[str, Any]) -> Step:
    role = string(message.get("role")) or "user"
    step = Step(0, _SOURCES.get(role, "system"), text_of(message.get("content")))
    if step.source == "agent":
        step.reasoning_content = reasoning_of(message)
        step.tool_calls = _calls(message) or None
    return step


def _answer(message: dict[str, Any], turn: Turn, rollout: Rollout) -> Step:
    step = _step({**message, "role": "assistant"})
    step.timestamp = datetime.fromtimestamp(turn.timestamp, UTC).isoformat()
    step.llm_call_count = 1
    step.metrics = _metrics(turn, rollout)
    step.is_copied_context = None if turn.owned else True
    return step


def _calls(message: dict[str, Any]) -> list[Call]:
    return [
        Call(one.id or f"call_{number}", one.function.name, _arguments(one.function.arguments))
        for number, one in enumerate(calls_of(message))
    ]


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    return found if isinstance(found, dict) else {"arguments": found}


def _add_result(step: Step, message: dict[str, Any]) -> None:
    known = {call.tool_call_id for call in step.tool_calls or ()}
    call_id = string(message.get("tool_call_id"))
    result = Result(text_of(message.get("content")))
    if call_id in known:
        result.source_call_id = call_id
    elif call_id is not None:
        result.extra = {"tool_call_id": call_id}
    if step.observation is None:
        step.observation = Observation([])
    step.observation.results.append(result)


def _metrics(turn: Turn, rollout: Rollout) -> Metrics:
    one = rollout.trajectory
    logprobs = one.logprobs[turn.start : turn.stop]
    told = [value for value in logprobs if value is not None]
    versions = [str(v) for v in one.weight_versions[turn.start : turn.stop] if v is not None]
    top = turn.top
    extra: dict[str, Any] = {
        "trace_id": turn.trace_id,
        "trained": bool(rollout.mask[turn.start]),
        "weight_versions": list(dict.fromkeys(versions)),
        "reasons": list(turn.reasons),
    }
    return Metrics(
        prompt_tokens=turn.start,
        completion_tokens=turn.stop - turn.start,
        prompt_token_ids=one.token_ids[: turn.start],
        completion_token_ids=one.token_ids[turn.start : turn.stop],
        logprobs=told if told and len(told) == len(logprobs) else None,
        extra=extra | ({} if top is None else {"top_logprobs": top}),
    )
