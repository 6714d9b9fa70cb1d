"""Coding agents whose engine fails in the middle of a conversation; opt-in like test_agents.py."""

from collections import Counter
from pathlib import Path

import pytest
from support.agents.agents import AGENTS
from support.agents.scripted_model import Fault
from support.agents.stage import in_order, opt_in, stage, tokens

from gateway.testing import GatewayFor

SECOND_TURN = 2

MENDED: dict[str, tuple[Fault, ...]] = {
    "claude-code": ("limited", "busy", "too long", "cut", "error event", "unfinished", "aborted"),
    "codex": ("limited", "busy", "cut", "error event", "unfinished", "aborted"),
}
"""After these an agent asks again. What has come of the broken answer, it must not have run."""

CASES = [(name, fault) for name, faults in MENDED.items() for fault in faults]

pytestmark = opt_in


@pytest.mark.parametrize(("name", "fault"), CASES)
async def test_agent_goes_on_after_a_fault(
    gateway_for: GatewayFor, tmp_path: Path, name: str, fault: Fault
) -> None:
    faults = {SECOND_TURN: fault}
    async with stage(gateway_for, tmp_path, AGENTS[name], faults=faults) as staged:
        staged.has_worked(await staged.play())
        traces = await staged.traces()
    assert Counter(trace.verdict for trace in traces)["INCOMPLETE"] == 1
    assert tokens(traces) == in_order(staged.model.sampled)


async def test_codex_ends_after_a_prompt_that_is_too_long(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    faults: dict[int, Fault] = {SECOND_TURN: "too long"}
    async with stage(gateway_for, tmp_path, AGENTS["codex"], faults=faults) as staged:
        ended = await staged.play()
        traces = await staged.traces()
    assert ended.status == 1
    assert "maximum context length" in ended.complained or "context window" in ended.complained
    assert [trace.verdict for trace in traces] == ["COMPLETE", "INCOMPLETE"]
