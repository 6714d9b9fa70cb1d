"""Up to a step the answers are recorded ones, after it a worker's; what differs is told."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.agents.conversation import Step
from support.agents.scripted_model import ScriptedModel
from support.agents.tool_agent import CAPTURE, REPLAY, STEPS, ToolAgent, exported, traces_of

from gateway import Trace
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

OTHER = [
    Step("Nobody says this.", "false"),
    Step("The other model reads it, too.", "cat made.txt"),
    Step("The other model is done."),
]


@pytest.fixture
async def run(gateway_for: GatewayFor, tmp_path: Path) -> tuple[Path, list[Trace], ToolAgent]:
    """A recorded run of one agent: its file, its traces, and what the agent heard."""
    async with ScriptedWorker(ScriptedModel(STEPS).script) as worker:
        live = await gateway_for(
            "sessions", entry(CAPTURE, wire_responses=True), workers=[worker.url]
        )
        agent = ToolAgent(f"{live.url}/sessions/first")
        await agent.work()
        return tmp_path / "run.jsonl", await exported(live, tmp_path / "run.jsonl"), agent


async def replaying(gateway_for: GatewayFor, path: Path, *workers: str, **options: object) -> Live:
    replay = entry(REPLAY, path=str(path), **options)
    return await gateway_for(
        "sessions", entry(CAPTURE, wire_responses=True), replay, workers=workers
    )


async def test_calls_after_to_step_go_to_a_worker_for_another_model(
    gateway_for: GatewayFor, run: tuple[Path, list[Trace], ToolAgent]
) -> None:
    path, recorded, first = run
    model = ScriptedModel(OTHER, model="other")
    async with ScriptedWorker(model.script) as worker:
        live = await replaying(gateway_for, path, worker.url, to_step=1, model="other")
        for session in ("one", "two"):
            agent = ToolAgent(f"{live.url}/sessions/{session}")
            said = await agent.work()
            assert agent.heard[0] == first.heard[0]
            assert said[-1]["content"] == OTHER[-1].text
        traces = await traces_of(live, "one")
    assert {request.model for request in model.asked} == {"other"}
    assert len(model.asked) == 4
    links = [trace.metadata["replay"] for trace in traces]
    assert [link["source"] for link in links] == ["recorded", "live", "live"]
    # The second call is the recorded one. The third one is not: it has the other model's answer.
    assert [link["trace_id"] for link in links] == [
        recorded[0].trace_id,
        recorded[1].trace_id,
        None,
    ]
    assert traces[1].overwritten == {"model": "other"}


async def test_call_that_was_not_recorded_diverges_and_names_the_field(
    gateway_for: GatewayFor, run: tuple[Path, list[Trace], ToolAgent]
) -> None:
    path, recorded, _ = run
    live = await replaying(gateway_for, path)
    url = f"{live.url}/sessions/again/v1/chat/completions"
    first, second = (dict(trace.raw_request or {}) for trace in recorded[:2])
    assert (await live.client.post(url, json=first)).status_code == 200
    second["messages"][2]["content"] += ", but otherwise"
    error = await diverged(live.client, url, second)
    assert error["param"] == "messages[2].content"
    assert f"at step 2 (trace {recorded[1].trace_id})" in error["message"]
    assert "', but otherwise'" in error["message"]
    repeated = await diverged(live.client, url, first)
    assert repeated["message"].startswith("the recorded session made this call fewer times")
    unknown = await diverged(
        live.client, f"{live.url}/sessions/new/v1/chat/completions", {**first, "seed": 1}
    )
    assert unknown["param"] == "seed"
    assert unknown["message"].startswith("no recorded session makes this call")


async def diverged(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(url, json=body)
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "replay_diverged"), answer.text
    return error


@pytest.mark.slow
async def test_call_beyond_the_recording_diverges_without_to_step(
    gateway_for: GatewayFor, run: tuple[Path, list[Trace], ToolAgent]
) -> None:
    path, recorded, _ = run
    live = await replaying(gateway_for, path)
    url = f"{live.url}/sessions/again/v1/chat/completions"
    for trace in recorded:
        assert (await live.client.post(url, json=trace.raw_request)).status_code == 200
    assert "to_step" in (await diverged(live.client, url, {"model": "sim"}))["message"]


@pytest.mark.slow
async def test_divergence_may_go_live(
    gateway_for: GatewayFor, run: tuple[Path, list[Trace], ToolAgent]
) -> None:
    path, recorded, _ = run
    async with ScriptedWorker(ScriptedModel(OTHER).script) as worker:
        live = await replaying(gateway_for, path, worker.url, on_divergence="live")
        url = f"{live.url}/sessions/again/v1/chat/completions"
        body = {**(recorded[0].raw_request or {}), "stream": False, "seed": 5}
        said = (await live.client.post(url, json=body)).json()
    assert said["choices"][0]["message"]["content"].startswith(OTHER[0].text)


async def test_fields_and_texts_that_differ_in_each_run_are_left_out(
    gateway_for: GatewayFor, run: tuple[Path, list[Trace], ToolAgent]
) -> None:
    path, recorded, _ = run
    live = await replaying(gateway_for, path, ignore=["seed", "user"], mask=["ran [a-z ]+"])
    url = f"{live.url}/sessions/again/v1/chat/completions"
    bodies = [dict(trace.raw_request or {}) for trace in recorded]
    bodies[1]["messages"][2]["content"] = "ran something > made.txt"
    for body in bodies[:1], bodies[1:2]:
        heard = await live.client.post(url, json={**body[0], "seed": 9, "user": "me"})
        assert heard.status_code == 200, heard.text


async def test_parallel_sessions_each_follow_a_recorded_one(
    gateway_for: GatewayFor, run: tuple[Path, list[Trace], ToolAgent]
) -> None:
    """By the id where it is the same, by the first request where it is not."""
    path, recorded, _ = run
    bodies = []
    for session_id, number in (("b", 2), ("c", 3)):
        for trace in recorded:
            request = {**(trace.raw_request or {}), "seed": number}
            bodies.append(
                msgspec.structs.replace(trace, session_id=session_id, raw_request=request)
            )
    text = b"\n".join(msgspec.json.encode(one) for one in (*recorded, *bodies))
    path.write_bytes(text)
    live = await replaying(gateway_for, path)
    asked: list[tuple[str, int | None]] = [("x", 3), ("b", 2), ("y", 2), ("z", None)]
    for session, seed in asked:
        for number in range(3):
            body = {**(recorded[number].raw_request or {})}
            body |= {} if seed is None else {"seed": seed}
            url = f"{live.url}/sessions/{session}/v1/chat/completions"
            answer = await live.client.post(url, json=body)
            assert answer.headers["x-gateway-replayed"] == str(number + 1)
    found = {
        session: (await traces_of(live, session))[0].metadata["replay"]["session_id"]
        for session in "xbyz"
    }
    assert found == {"x": "c", "b": "b", "y": "b", "z": "first"}
