"""The trees of scripted harnesses: which branches there are, and of which kind each fork is."""

import json
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.trace_capture.sequences.forks import Forks
from support.gateways.capturing import capturing

from gateway import Cause, Divergence, ForkKind, Trace, TraceChoice
from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor, Live

SESSION = "01a22e87-75ba-79f1-9de1-29e3fd2f6eea"
Message = dict[str, Any]


class Harness:
    """An agent that keeps its messages, and says who it is as codex does."""

    def __init__(
        self, gateway: Live, thread: str = SESSION, system: str = "You are terse."
    ) -> None:
        self._gateway = gateway
        self._thread = thread
        self.messages: list[Message] = [{"role": "system", "content": system}]

    def says(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    async def ask(self, kind: str = "turn") -> Message:
        """Send the messages; the answer is not among them yet."""
        headers = {
            "user-agent": "codex_exec/0.171.0",
            "session-id": SESSION,
            "thread-id": self._thread,
            "x-codex-turn-metadata": json.dumps({"request_kind": kind}),
        }
        body = {"model": "sim", "messages": self.messages, "max_tokens": 24, "seed": 1}
        url = "/v1/chat/completions"
        answer = await self._gateway.client.post(url, json=body, headers=headers)
        message: Message = answer.json()["choices"][0]["message"]
        return {"role": "assistant", "content": message["content"]}

    async def turn(self, text: str) -> None:
        self.says(text)
        self.messages.append(await self.ask())

    def part(self, gateway: Live, thread: str) -> "Harness":
        return Harness(gateway, thread, "You look things up.")


@pytest.fixture
async def gateway(gateway_for: GatewayFor, tmp_path: Path) -> Live:
    return await capturing(gateway_for, tmp_path)


async def tree(gateway: Live) -> list[tuple[str | None, int]]:
    """Return for each branch why it leaves the others, and the number of its turns."""
    async with AsyncGatewayClient(gateway.url) as client:
        found = (await client.trajectories(SESSION)).trajectories
        masks = [mask for one in found for mask in one.loss_mask]
        traces = await client.query_traces([SESSION])
    sampled = sum(len(choice.token_ids) for trace in traces for choice in trace.choices)
    assert sum(masks) == sampled
    return [(one.fork_kind, len(one.trace_ids)) for one in found]


async def test_turns_of_one_agent_are_one_branch(gateway: Live) -> None:
    agent = Harness(gateway)
    for text in ("first", "second", "third"):
        await agent.turn(text)
    assert await tree(gateway) == [(None, 3)]


async def test_conversation_that_goes_on_from_its_summary_is_a_compaction(gateway: Live) -> None:
    agent = Harness(gateway)
    await agent.turn("first")
    await agent.turn("second")
    agent.says("Summarise all of this.")
    summary = (await agent.ask("compaction"))["content"]
    agent.messages = [agent.messages[0], {"role": "user", "content": f"So far: {summary}"}]
    await agent.turn("third")
    await agent.turn("fourth")
    assert await tree(gateway) == [(None, 3), ("compaction", 2)]


async def test_summary_asked_for_beside_the_next_turn_is_a_compaction(gateway: Live) -> None:
    agent = Harness(gateway)
    await agent.turn("first")
    aside = Harness(gateway)
    aside.messages = [*agent.messages[:1], {"role": "user", "content": "Summarise: first"}]
    await aside.ask("compaction")
    await agent.turn("second")
    assert await tree(gateway) == [(None, 2), ("compaction", 1)]


async def test_first_call_of_another_agent_is_a_subagent(gateway: Live) -> None:
    agent = Harness(gateway)
    await agent.turn("first")
    part = agent.part(gateway, "01a22e87-767c-7e30-ade0-60c9185dbdea")
    await part.turn("look up one")
    await part.turn("look up two")
    await agent.turn("second")
    assert await tree(gateway) == [(None, 2), ("subagent", 2)]


async def test_same_request_again_is_a_retry(gateway: Live) -> None:
    agent = Harness(gateway)
    agent.says("first")
    await agent.ask()
    agent.messages.append(await agent.ask())
    await agent.turn("second")
    assert await tree(gateway) == [(None, 1), ("retry", 2)]


async def test_answer_that_the_agent_drops_is_a_rejected_attempt(gateway: Live) -> None:
    agent = Harness(gateway)
    await agent.turn("first")
    agent.says("second")
    await agent.ask()
    await agent.turn("That was no tool call.")
    assert await tree(gateway) == [(None, 2), ("rejected_attempt", 2)]


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("retokenised_completion", "reformatting"),
        ("stripped_reasoning", "reformatting"),
        ("compacted_history", "compaction"),
        ("changed_tools", "unknown"),
    ],
)
def test_kind_of_a_fork_follows_from_the_cause_of_the_divergence(
    cause: Cause, kind: ForkKind
) -> None:
    forks = Forks()
    forks.add(Trace(trace_id="a", messages=[{"role": "user", "content": "first"}]))
    divergence = Divergence(trace_id="a", choice=0, at=3, cause=cause)
    assert forks.kind(Trace(trace_id="b", divergence=divergence)) == kind


def test_summary_that_comes_back_as_an_answer_to_other_instructions_is_a_compaction() -> None:
    summary = {"role": "assistant", "content": "They spoke of numbers."}
    asked = [{"role": "system", "content": "You summarise."}, {"role": "user", "content": "..."}]
    forks = Forks()
    forks.add(Trace(trace_id="a", messages=asked, choices=[TraceChoice(message=summary)]))
    begin = {"role": "system", "content": "You are terse."}
    question = {"role": "user", "content": "What did we do?"}
    assert forks.kind(Trace(trace_id="b", messages=[begin, question, summary])) == "compaction"
    assert forks.kind(Trace(trace_id="c", messages=[asked[0], question, summary])) == "unknown"


async def test_rewinding_to_an_earlier_turn_is_no_turn_after_the_later_ones(gateway: Live) -> None:
    agent = Harness(gateway)
    await agent.turn("first")
    begin = list(agent.messages)
    await agent.turn("second")
    agent.messages = begin
    await agent.turn("another second")
    assert await tree(gateway) == [(None, 2), ("unknown", 2)]


async def test_branches_are_asked_for_by_kind(gateway: Live) -> None:
    agent = Harness(gateway)
    agent.says("first")
    await agent.ask()
    await agent.ask()
    async with AsyncGatewayClient(gateway.url) as client:
        for kind, places in (("none", [0]), ("retry", [1]), ("compaction", [])):
            found = await client.trajectories(SESSION, fork_kinds=[kind])
            assert [one.index for one in found.trajectories] == places
        both = await client.trajectories(SESSION, fork_kinds=["none", "retry"])
        assert len(both.trajectories) == 2
    path = f"/sessions/{SESSION}/trajectories"
    answer = await gateway.client.get(path, params={"fork_kind": "retry,fork"})
    assert (answer.status_code, "'fork' is no kind" in answer.text) == (400, True)
