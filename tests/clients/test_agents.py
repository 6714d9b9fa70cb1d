"""Coding agents, unmodified and with no network but the gateway, hold whole conversations.

Opt-in: `make agents` installs them and runs this. AGENTS_HOME names another folder that has them.
"""

import re
from pathlib import Path

import pytest
from support.agents.agents import AGENTS
from support.agents.stage import in_order, opt_in, stage, tokens
from support.paths import DOCS, ROOT

from gateway.testing import GatewayFor


@pytest.mark.parametrize("name", [pytest.param(name, marks=opt_in) for name in AGENTS])
async def test_agent_works_with_its_tools_and_each_call_is_captured(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    async with stage(gateway_for, tmp_path, AGENTS[name]) as staged:
        staged.has_worked(await staged.play())
        traces = await staged.traces()
    assert {(trace.verdict, *trace.reasons) for trace in traces} == {("COMPLETE",)}
    assert {one.translated_from or one.dialect for one in traces} == {AGENTS[name].dialect}
    assert tokens(traces) == in_order(staged.model.sampled)


@pytest.mark.parametrize("name", [pytest.param(name, marks=opt_in) for name in AGENTS])
async def test_agent_works_with_a_model_that_thinks(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    async with stage(gateway_for, tmp_path, AGENTS[name], thinks=True) as staged:
        staged.has_worked(await staged.play())
        traces = await staged.traces()
    assert {(trace.verdict, *trace.reasons) for trace in traces} == {("COMPLETE",)}
    assert tokens(traces) == in_order(staged.model.sampled)


def test_manual_has_the_agents_and_the_versions_that_are_pinned() -> None:
    makefile, pip = (ROOT / "Makefile").read_text(), (ROOT / "requirements/agents.in").read_text()
    pins = dict(re.findall(r"(\S+?)(?:@|==)(\d[\d.]+)", makefile.partition("MINUTES")[0] + pip))
    table = re.findall(
        r"^\| `([\w-]+)` \| `([@\w/-]+)` \| ([\d.]+) \| (\w+) \| (?:`([\w-]+)`|none) \|$",
        (DOCS / "agents.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert {package: version for _, package, version, _, _ in table} == pins
    assert {name: (dialect.lower(), header or None) for name, _, _, dialect, header in table} == {
        name: (agent.dialect, agent.session_header) for name, agent in AGENTS.items()
    }
