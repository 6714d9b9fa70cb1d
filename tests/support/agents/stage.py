"""A captured conversation between an agent and a model that plays, through a gateway."""

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from support.agents.agents import Agent, Place
from support.agents.closed import Ended, can_close, run_closed
from support.agents.conversation import Step
from support.agents.scripted_model import Fault, Sampled, ScriptedModel
from support.gateways.capturing import CAPTURE

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.config import PluginEntry, StorageSettings, Worker
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

PATIENCE = 240.0
"""Seconds for a whole conversation; some agents start for half a minute on a busy machine."""

opt_in = [
    pytest.mark.agents,
    pytest.mark.timeout(PATIENCE + 60),
    pytest.mark.skipif(not can_close(), reason="there is no unshare"),
]
"""The marks of a test that runs an agent."""

TASK = "Write made.txt and check it."
WRITE = 'echo "$((6 * 7)) is written" | tee made.txt'
WRITTEN = "42 is written\n"
LAST = "All of that is done: the file is there."
TRANSLATE = "gateway_plugins.translate:Translate"
SESSION = "one-conversation"


class Stage(msgspec.Struct, frozen=True):
    """`folder` gets the home and the project of the agent."""

    agent: Agent
    live: Live
    model: ScriptedModel
    folder: Path

    async def play(self) -> Ended:
        """Run the agent to its end. Skips the test if the agent is not installed."""
        return await played(self.agent, self.live.url, self.folder)

    async def traces(self) -> list[Trace]:
        """The traces of the one session that there is."""
        return await traces_of(self.live)

    def has_worked(self, ended: Ended) -> None:
        """The agent has run both commands, told the model what they said, and said its last.

        What the first one said may be missing: qwen-code at times loses the output of a command.
        """
        assert_worked(ended, self.folder)
        heard = [str(message.content) for message in self.model.asked[-1].messages]
        assert WRITTEN.strip() in heard[-1], heard


async def played(agent: Agent, url: str, folder: Path, patience: float = PATIENCE) -> Ended:
    """Run the agent to its end. Skips the test if the agent is not installed."""
    if not agent.path.exists():
        pytest.skip("`make agents` installs the agents")
    home, project = folder / "home", folder / "project"
    home.mkdir()
    project.mkdir()
    launch = agent.launch(Place(home, _session_in_url(agent)), TASK)
    command = [str(agent.path), *launch.arguments]
    return await run_closed(command, url, project, {**_environment(home), **launch.env}, patience)


def assert_worked(ended: Ended, folder: Path) -> None:
    """The agent has run both commands and told what the model said last."""
    assert ended.status == 0, ended
    assert LAST.partition(":")[0] in ended.said, ended
    assert (folder / "project" / "made.txt").read_text() == WRITTEN


def steps_of(agent: Agent) -> list[Step]:
    """The script of the conversation."""
    return [
        Step("First the file is written.", WRITE, "How is it written?"),
        Step("Now the file is read.", "cat made.txt", "Is it there?"),
        Step(LAST, agent.ends_by, "It is."),
    ]


def sessions_of(agent: Agent) -> PluginEntry:
    """The plugin that knows the agent's session."""
    header = agent.session_header
    return entry("sessions") if header is None else entry("sessions", header=header)


async def traces_of(live: Live) -> list[Trace]:
    """The traces of the one session that there is."""
    async with AsyncGatewayClient(live.url) as client:
        [session] = await client.list_sessions()
        traces = await client.query_traces()
    assert session.trace_count == len(traces)
    return traces


@asynccontextmanager
async def stage(
    gateway_for: GatewayFor,
    folder: Path,
    agent: Agent,
    *,
    thinks: bool = False,
    faults: Mapping[int, Fault] | None = None,
) -> AsyncIterator[Stage]:
    """A gateway that captures, in front of a worker that speaks only chat."""
    model = ScriptedModel(steps_of(agent), thinks=thinks, faults=faults)
    storage = StorageSettings(path=str(folder / "traces.db"))
    async with ScriptedWorker(model.script) as worker:
        plugins = (sessions_of(agent), CAPTURE, entry(TRANSLATE, extensions=True))
        only_chat = Worker(url=worker.url, apis=("chat",))
        live = await gateway_for(*plugins, workers=[only_chat], storage=storage)
        yield Stage(agent, live, model, folder)


def tokens(traces: list[Trace]) -> list[Sampled]:
    """What the COMPLETE ones of `traces` have, in the order of `in_order`."""
    whole = [trace for trace in traces if trace.verdict == "COMPLETE"]
    return in_order([Sampled(one.prompt_token_ids, one.completion_token_ids) for one in whole])


def in_order(sampled: list[Sampled]) -> list[Sampled]:
    return sorted(sampled, key=msgspec.json.encode)


def _session_in_url(agent: Agent) -> str | None:
    return None if agent.session_header else SESSION


def _environment(home: Path) -> dict[str, str]:
    node = Path(shutil.which("node") or "/usr/bin/node").parent
    path = os.pathsep.join([str(node), "/usr/bin", "/bin"])
    return {"HOME": str(home), "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8"}
