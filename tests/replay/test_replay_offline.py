"""A run is recorded, then replayed without any worker: the agent hears the same bytes."""

from pathlib import Path

import pytest
from support.agents.scripted_model import ScriptedModel
from support.agents.tool_agent import CAPTURE, REPLAY, STEPS, ToolAgent, exported, traces_of

from gateway.testing import GatewayFor, Live, ScriptedWorker, entry


async def offline(gateway_for: GatewayFor, path: Path, **options: object) -> Live:
    replay = entry(REPLAY, path=str(path), **options)
    return await gateway_for("sessions", entry(CAPTURE, wire_responses=True), replay, workers=[])


@pytest.mark.parametrize("streams", [True, False])
async def test_agent_hears_the_recorded_bytes_again_without_a_worker(
    gateway_for: GatewayFor, tmp_path: Path, streams: bool
) -> None:
    model = ScriptedModel(STEPS)
    async with ScriptedWorker(model.script) as worker:
        recording = await gateway_for(
            "sessions", entry(CAPTURE, wire_responses=True), workers=[worker.url]
        )
        first = ToolAgent(f"{recording.url}/sessions/first", streams=streams)
        said = await first.work()
        recorded = await exported(recording, tmp_path / "run.jsonl")
    assert len(recorded) == len(model.asked) == 3
    replaying = await offline(gateway_for, tmp_path / "run.jsonl")
    again = ToolAgent(f"{replaying.url}/sessions/again", streams=streams)
    assert await again.work() == said
    assert again.heard == first.heard
    assert len(model.asked) == 3
    traces = await traces_of(replaying, "again")
    assert [trace.verdict for trace in traces] == ["COMPLETE"] * 3
    for one, other in zip(traces, recorded, strict=True):
        assert one.choices == other.choices
        assert one.prompt_token_ids
        assert one.wire_response == other.wire_response
        assert (one.raw_request, one.injected) == (other.raw_request, other.injected)
    links = [trace.metadata["replay"] for trace in traces]
    assert [link["trace_id"] for link in links] == [trace.trace_id for trace in recorded]
    assert [link["step"] for link in links] == [1, 2, 3]
    assert {link["source"] for link in links} == {"recorded"}
