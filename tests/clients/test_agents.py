"""Coding agents, unmodified and with no network but the gateway, hold whole conversations.

Opt-in: `make agents` installs them and runs this. AGENTS_HOME names another folder that has them.
"""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from support.agents.agents import AGENTS, Agent, Place
from support.agents.closed import Ended, can_close, run_closed
from support.agents.scripted_model import Sampled, ScriptedModel, Step
from support.gateways.capturing import CAPTURE
from support.paths import DOCS, ROOT

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.config import StorageSettings, Worker
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

PATIENCE = 240.0
"""Seconds for a whole conversation; some agents start for half a minute on a busy machine."""

TASK = "Write made.txt and check it."
WRITE = 'echo "$((6 * 7)) is written" | tee made.txt'
WRITTEN = "42 is written\n"
LAST = "All of that is done: the file is there."
TRANSLATE = "gateway_plugins.translate:Translate"
SESSION = "one-conversation"

TRIED = [name for name in AGENTS if AGENTS[name].dialect != "responses"]

opt_in = [
    pytest.mark.agents,
    pytest.mark.timeout(PATIENCE + 60),
    pytest.mark.skipif(not can_close(), reason="there is no unshare"),
]


class Stage(msgspec.Struct, frozen=True):
    """A captured conversation between an agent and a model that plays."""

    live: Live
    model: ScriptedModel


@asynccontextmanager
async def stage(gateway_for: GatewayFor, folder: Path, agent: Agent) -> AsyncIterator[Stage]:
    steps = [
        Step("First the file is written.", WRITE),
        Step("Now the file is read.", "cat made.txt"),
        Step(LAST, agent.ends_by),
    ]
    model = ScriptedModel(steps)
    header = agent.session_header
    sessions = entry("sessions") if header is None else entry("sessions", header=header)
    storage = StorageSettings(path=str(folder / "traces.db"))
    async with ScriptedWorker(model.script) as worker:
        plugins = (sessions, CAPTURE, TRANSLATE)
        only_chat = Worker(url=worker.url, apis=("chat",))
        live = await gateway_for(*plugins, workers=[only_chat], storage=storage)
        yield Stage(live, model)


async def run(agent: Agent, live: Live, folder: Path) -> Ended:
    program = agent.path
    if not program.exists():
        pytest.skip("`make agents` installs the agents")
    home, project = folder / "home", folder / "project"
    home.mkdir()
    project.mkdir()
    launch = agent.launch(Place(home, None if agent.session_header else SESSION), TASK)
    node = Path(shutil.which("node") or "/usr/bin/node").parent
    path = os.pathsep.join([str(node), "/usr/bin", "/bin"])
    env = {"HOME": str(home), "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8", **launch.env}
    return await run_closed([str(program), *launch.arguments], live.url, project, env, PATIENCE)


async def traces_of(live: Live) -> list[Trace]:
    """The traces of the one session that there is."""
    async with AsyncGatewayClient(live.url) as client:
        [session] = await client.list_sessions()
        traces = await client.query_traces()
    assert session.trace_count == len(traces)
    return traces


def tokens(traces: list[Trace]) -> list[Sampled]:
    return [Sampled(trace.prompt_token_ids, trace.completion_token_ids) for trace in traces]


def in_order(sampled: list[Sampled]) -> list[Sampled]:
    return sorted(sampled, key=msgspec.json.encode)


@pytest.mark.parametrize("name", [pytest.param(name, marks=opt_in) for name in TRIED])
async def test_agent_works_with_its_tools_and_each_call_is_captured(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    agent = AGENTS[name]
    async with stage(gateway_for, tmp_path, agent) as staged:
        ended = await run(agent, staged.live, tmp_path)
        assert ended.status == 0, ended
        assert LAST.partition(":")[0] in ended.said, ended
        assert (tmp_path / "project" / "made.txt").read_text() == WRITTEN
        heard = [str(message.content) for message in staged.model.asked[-1].messages]
        assert sum(WRITTEN.strip() in text for text in heard) == 2, "the results of both commands"
        traces = await traces_of(staged.live)
    assert {(trace.verdict, *trace.reasons) for trace in traces} == {("COMPLETE",)}
    assert {trace.translated_from or trace.dialect for trace in traces} == {agent.dialect}
    assert in_order(tokens(traces)) == in_order(staged.model.sampled)


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
