"""Sampled ids are in the next prompt: sessions with token-in/token-out before the simulator."""

import random
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from support.gateways.capturing import CAPTURE, capturing
from support.tito.agents import Agent, reworded, traces_of, with_tito

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.config import PluginEntry
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, entry


@pytest_asyncio.fixture
async def simulator(scale_out: bool) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(scale_out=scale_out)) as running:
        yield running


@pytest.fixture
def scale_out() -> bool:
    return True


def facts(trace: Trace) -> dict[str, Any]:
    found: dict[str, Any] = trace.metadata["tito"]
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_each_prompt_begins_with_the_former_turn(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    for turn in range(4):
        await agent.say(f"turn {turn}", stream=stream, seed=turn)
    traces = await traces_of(live, "s")
    assert [one.verdict for one in traces] == ["COMPLETE"] * 4
    assert {(one.dialect, one.translated_from) for one in traces} == {("generate", "chat")}
    assert reworded(traces) == 0
    assert [facts(one)["prompt"] for one in traces] == ["rendered", *["continued"] * 3]
    for before, one in pairwise(traces):
        kept = len(before.prompt_token_ids) + len(before.completion_token_ids)
        assert facts(one) == {
            "prompt": "continued",
            "trace_id": before.trace_id,
            "kept_tokens": kept,
        }
    for one, said in zip(traces, agent.answers, strict=True):
        assert (one.response_message["content"] or "") == said
        assert one.messages[-1]["role"] == "user"
    async with AsyncGatewayClient(live.url) as client:
        [whole] = (await client.trajectories("s")).trajectories
    assert sum(whole.loss_mask) == sum(len(one.completion_token_ids) for one in traces)


async def test_without_tito_sampled_tokens_are_lost(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = Agent(live.client, "s")
    for turn in range(4):
        await agent.say(f"turn {turn}", seed=turn)
    traces = await traces_of(live, "s")
    assert reworded(traces) > 0
    assert "tito" not in traces[0].metadata


async def test_a_turn_at_its_end_gets_none_and_one_that_was_cut_gets_all_of_the_end(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s", allowed_token_ids=None)
    await agent.say("first", max_tokens=2, seed=1)
    await agent.say("second", max_tokens=90, seed=2, stop=["e"])
    await agent.say("third", max_tokens=500, seed=3)
    await agent.say("fourth")
    traces = await traces_of(live, "s")
    ends = [(one.finish_reason, one.choices[0].stop_reason) for one in traces]
    assert ends[:3] == [("length", None), ("stop", "e"), ("stop", None)]
    assert reworded(traces) == 0
    opened = traces[0].prompt_token_ids[:5]  # <|im_start|>, and the role of a user
    for before, one in pairwise(traces):
        kept = len(before.prompt_token_ids) + len(before.completion_token_ids)
        rest = one.prompt_token_ids[kept:]
        ended = before.completion_token_ids[-1] == 2
        assert rest[: 1 if ended else 2] == ([13] if ended else [2, 13])
        assert rest[1 if ended else 2 :][:5] == opened


async def test_rewritten_history_forks_and_the_trace_says_so(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    for turn in range(3):
        await agent.say(f"turn {turn}", seed=turn)
    agent.messages[3] = {"role": "assistant", "content": "I never said that."}
    await agent.say("turn 3")
    agent.messages[1] = {"role": "assistant", "content": "Nor this."}
    await agent.say("turn 4")
    traces = await traces_of(live, "s")
    assert facts(traces[3])["forked"] == facts(traces[4])["forked"] == "changed_history"
    assert facts(traces[3])["trace_id"] == traces[0].trace_id  # of what was kept, the ids remain
    assert facts(traces[4])["prompt"] == "rendered"
    assert reworded(traces[:3]) == 0
    assert reworded([traces[0], traces[3]]) == 0
    assert traces[4].divergence is not None


async def test_a_retry_and_a_branch_continue_the_same_turn(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    await agent.say("first", seed=1)
    before = list(agent.messages)
    for text in ("second", "second", "other"):
        agent.messages[:] = before
        await agent.say(text, seed=2)
    first, *others = await traces_of(live, "s")
    assert [facts(one)["trace_id"] for one in others] == [first.trace_id] * 3
    assert all("forked" not in facts(one) for one in others)
    assert others[0].prompt_token_ids == others[1].prompt_token_ids


async def test_changed_tools_begin_another_conversation(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    await agent.say("first")
    await agent.say("second", tools=[{"type": "function", "function": {"name": "look"}}])
    _, second = await traces_of(live, "s")
    assert facts(second) == {"prompt": "rendered", "forked": "changed_history"}


async def test_turns_before_a_restart_are_continued(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    await agent.say("first", seed=1)
    await agent.say("second", seed=2)
    again = await capturing(gateway_for, tmp_path)
    later = Agent(again.client, "s")
    later.messages = agent.messages
    await later.say("third", seed=3)
    traces = await traces_of(again, "s")
    assert facts(traces[2])["trace_id"] == traces[1].trace_id
    assert reworded(traces) == 0


async def test_turns_that_were_carried_as_chat_are_continued(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = Agent(live.client, "s")
    await agent.say("first", seed=1)
    await with_tito(live, "s")
    await agent.say("second", seed=2)
    traces = await traces_of(live, "s")
    assert [one.dialect for one in traces] == ["chat", "generate"]
    assert reworded(traces) == 0


async def test_parameters_of_the_session_hold(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    async with AsyncGatewayClient(live.url) as client:
        await client.create_session("s", sampling_params={"max_tokens": 3, "temperature": 0.5})
        assert (await client.get_session_info("s")).tito == "require"
    await agent.say("first", max_tokens=10)
    [trace] = await traces_of(live, "s")
    assert len(trace.completion_token_ids) <= 3
    assert trace.sampling_params["temperature"] == 0.5


def with_option(mode: str) -> PluginEntry:
    return entry(CAPTURE, tito=mode)


@pytest.mark.parametrize("scale_out", [False])
async def test_an_engine_without_the_flag_is_named(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for("sessions", with_option("require"))
    path = "/sessions/s/v1/chat/completions"
    asked = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await live.client.post(path, json=asked)
    assert answer.status_code == 502
    assert "--enable-scale-out" in answer.json()["error"]["message"]


@pytest.mark.parametrize("scale_out", [False])
async def test_if_it_is_only_preferred_the_engine_gets_a_chat(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for("sessions", with_option("prefer"))
    await Agent(live.client, "s").say("Hello")
    [trace] = await traces_of(live, "s")
    assert (trace.verdict, trace.dialect) == ("COMPLETE", "chat")
    assert facts(trace)["prompt"] == "by_engine"
    assert "--enable-scale-out" in facts(trace)["reason"]


async def test_what_generate_does_not_have_is_rejected_or_carried_as_chat(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    messages = [{"role": "user", "content": "Hello"}]
    asked: dict[str, Any] = {"model": "sim", "messages": messages}
    asked |= {"prompt_logprobs": 1, "max_tokens": 3}
    answer = await live.client.post("/sessions/s/v1/chat/completions", json=asked)
    assert answer.status_code == 400
    assert "prompt_logprobs" in answer.json()["error"]["message"]
    await with_tito(live, "s", "prefer")
    await agent.say("Hello", prompt_logprobs=1)
    [trace] = await traces_of(live, "s")
    assert trace.dialect == "chat"


async def run(agent: Agent, chance: random.Random) -> int:
    """Have a random conversation; return how often the agent rewrote its history."""
    rewritten = 0
    for turn in range(chance.randint(2, 5)):
        if turn and chance.random() < 0.1:
            place = chance.choice(range(1, len(agent.messages), 2))
            said = agent.messages[place]["content"]
            agent.messages[place] = {"role": "assistant", "content": f"{said}. Or not"}
            rewritten += 1
        cut: dict[str, Any] = {"max_tokens": chance.choice([1, 2, 5, 14])}
        if chance.random() < 0.2:
            cut["stop"] = chance.choice(["a", "th", [" t", "old"]])
        elif chance.random() < 0.2:
            cut["allowed_token_ids"] = None
        stream = chance.random() < 0.5
        await agent.say(f"turn {turn}", stream=stream, seed=chance.getrandbits(30), **cut)
    return rewritten


async def random_sessions(gateway_for: GatewayFor, folder: Path, count: int) -> tuple[int, int]:
    """Compare random sessions with and without token-in/token-out.

    Return how many turns forked, and how many sampled tokens were lost without it.
    """
    live = await capturing(gateway_for, folder)
    lost_without = rewritten = forked = 0
    for number in range(count):
        agent = await with_tito(live, f"with-{number}")
        rewritten += await run(agent, random.Random(number))
        traces = await traces_of(live, f"with-{number}")
        assert [one.verdict for one in traces] == ["COMPLETE"] * len(traces)
        known = {one.trace_id: one for one in traces}
        for one in traces:
            told = facts(one)
            forked += "forked" in told
            if told["prompt"] == "continued":
                assert reworded([known[told["trace_id"]], one]) == 0
        if not any("forked" in facts(one) for one in traces):
            assert reworded(traces) == 0
        await run(Agent(live.client, f"without-{number}"), random.Random(number))
        lost_without += reworded(await traces_of(live, f"without-{number}"))
    assert forked == rewritten > 0
    assert lost_without > count
    return forked, lost_without


async def test_random_sessions_lose_no_sampled_token(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    await random_sessions(gateway_for, tmp_path, 8)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_a_thousand_random_sessions_lose_no_sampled_token(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forked, lost_without = await random_sessions(gateway_for, tmp_path, 1_000)
    with capsys.disabled():
        sys.stdout.write(f"\n{forked} forks; without it {lost_without} tokens are lost\n")
