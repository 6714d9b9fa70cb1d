"""The trees of recorded runs of harnesses: which calls are one sequence, and why branches fork."""

from collections.abc import Mapping

import httpx
from support.agents.played_harness import PlayedCall, PlayedModel, played_calls
from support.gateways.capturing import CAPTURE

from gateway.client import AsyncGatewayClient
from gateway.config import Worker
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

Tree = list[tuple[str | None, list[int]]]
"""For each branch of a session, why it leaves the others, and the numbers of its calls."""

TREES: Mapping[str, list[Tree]] = {
    # The third call asks for a commit message. It holds the answer, as one for a summary does.
    "aider/cut": [[(None, [1]), ("retry", [2]), ("compaction", [3])]],
    # Messages carry arguments as objects, so their text comes back anew with each turn. The fourth
    # call asks for the summary, of which the fifth has the text without its marks.
    "claude-code/compact": [
        [
            (None, [1]),
            ("reformatting", [2]),
            ("reformatting", [3]),
            ("compaction", [4]),
            ("compaction", [5]),
        ]
    ],
    # The second response breaks off; the third request has a note in its place.
    "claude-code/cut": [
        [
            (None, [1]),
            ("reformatting", [2]),
            ("rejected_attempt", [3]),
            ("reformatting", [4]),
            ("reformatting", [5]),
        ]
    ],
    # A system message in the middle of the subagent's second request is put first for the engine.
    "claude-code/sub": [
        [(None, [1]), ("reformatting", [2, 5]), ("subagent", [3]), ("unknown", [4])]
    ],
    # Neither says that the second and third call are a subagent's. The fourth has its answer as
    # the result of a tool.
    "cline/sub": [[(None, [1]), ("unknown", [2]), ("reformatting", [3]), ("reformatting", [4])]],
    "qwen-code/sub": [
        [(None, [1]), ("reformatting", [2, 5]), ("unknown", [3]), ("reformatting", [4])]
    ],
    # The fourth has no tools any more, the fifth the summary among the messages of the user.
    "codex/compact": [[(None, [1, 2, 3]), ("compaction", [4]), ("compaction", [5])]],
    "codex/sub": [[(None, [1, 2, 4]), ("subagent", [3])]],
    # The second breaks off and is sent again. What comes later has the third response written
    # anew, although it begins with all that was sampled for the second.
    "continue/cut": [
        [
            (None, [1]),
            ("reformatting", [2]),
            ("retry", [3]),
            ("reformatting", [4]),
            ("reformatting", [5]),
        ]
    ],
    "pi/cut": [
        [
            (None, [1]),
            ("reformatting", [2]),
            ("retry", [3]),
            ("reformatting", [4]),
            ("reformatting", [5]),
        ]
    ],
    # The second is refused as too long. The third asks for the summary of the first turn.
    "copilot/413ctx": [[(None, [1, 3]), ("compaction", [4])]],
    "copilot/sub": [[(None, [1, 4]), ("subagent", [2, 3])]],
    "harbor-terminus2/basic": [[(None, [1, 2, 3, 4])]],
    "mini-swe-agent/basic": [[(None, [1, 2, 3, 4])]],
    "kimi-code/compact": [[(None, [1]), ("reformatting", [2]), ("compaction", [3])]],
    # What came of the second response stays in the history as an answer of its own.
    "kimi-code/cut": [
        [(None, [1]), ("reformatting", [2, 3]), ("reformatting", [2, 4]), ("reformatting", [2, 5])]
    ],
    # Refused calls sample nothing, so the same request again is no second sample.
    "kimi-code/errors": [
        [(None, [3]), ("reformatting", [5]), ("reformatting", [6]), ("reformatting", [7])]
    ],
    # A title; three turns; a summary, and two turns more; a summary again.
    "opencode/compact": [
        [
            (None, [1]),
            ("unknown", [2]),
            ("reformatting", [3]),
            ("reformatting", [4]),
            ("compaction", [5]),
            ("compaction", [6]),
            ("reformatting", [7]),
            ("reformatting", [8]),
            ("compaction", [9]),
            ("compaction", [10]),
        ]
    ],
    # The third breaks off and is sent again; the fifth has an empty answer in its place.
    "opencode/error_event": [
        [
            (None, [1]),
            ("unknown", [2]),
            ("reformatting", [3]),
            ("retry", [4]),
            ("rejected_attempt", [5]),
            ("reformatting", [6]),
        ]
    ],
    "opencode/sub": [
        [(None, [1]), ("unknown", [2]), ("reformatting", [5])],
        [(None, [3]), ("reformatting", [4])],
    ],
    "openhands-sdk/basic": [[(None, [1, 3, 4, 5]), ("compaction", [6]), ("compaction", [7])]],
}

NAMES_SESSIONS = ("claude-code", "codex", "opencode", "kimi-code", "openhands-sdk")
"""Harnesses that name their session themselves."""


async def play(live: Live, model: PlayedModel, call: PlayedCall) -> None:
    """Make a recorded call. A harness that does not name its session has one by the URL."""
    model.next = call.said
    headers = [*call.headers, ("x-request-id", call.name)]
    session = f"/sessions/{call.scenario.replace('/', '-')}"
    path = call.path if call.name.startswith(NAMES_SESSIONS) else f"{session}{call.path}"
    try:
        await live.client.post(path, headers=headers, json=call.body)
    except httpx.HTTPError:
        assert call.said.cut, call.name


async def test_trees_of_recorded_runs_are_those_that_are_right(gateway_for: GatewayFor) -> None:
    model = PlayedModel()
    async with ScriptedWorker(model.script) as worker:
        plugins = ("sessions", entry("gateway_plugins.translate:Translate"), CAPTURE)
        live = await gateway_for(*plugins, workers=[Worker(url=worker.url, apis=("chat",))])
        for call in played_calls():
            await play(live, model, call)
    found = await trees(live)
    for scenario, right in TREES.items():
        assert found[scenario] == right, scenario
    assert found.keys() == TREES.keys()


async def trees(live: Live) -> dict[str, list[Tree]]:
    """Return the trees of each scenario, one for each of its sessions."""
    found: dict[str, list[Tree]] = {}
    async with AsyncGatewayClient(live.url) as client:
        for session in await client.list_sessions():
            scenario, tree = await tree_of(client, session.session_id)
            found.setdefault(scenario, []).append(tree)
    return found


async def tree_of(client: AsyncGatewayClient, session_id: str) -> tuple[str, Tree]:
    """Return the scenario of a session, and its tree; each sampled token is owned once."""
    traces = await client.query_traces([session_id])
    names = {trace.trace_id: trace.call_id.rpartition("/") for trace in traces}
    branches = (await client.trajectories(session_id)).trajectories
    sampled = sum(len(choice.token_ids) for trace in traces for choice in trace.choices)
    assert sum(sum(branch.loss_mask) for branch in branches) == sampled
    tree: Tree = [
        (branch.fork_kind, [int(names[trace_id][2]) for trace_id in branch.trace_ids])
        for branch in branches
    ]
    return names[traces[0].trace_id][0], tree
