"""`gateway replay` drives a recorded run again, and says where the new answers differ."""

import argparse
import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from gateway_plugins.replay.cli.commands import add_replay_command
from support.agents.conversation import Step
from support.agents.scripted_model import Fault, ScriptedModel
from support.agents.tool_agent import CAPTURE, STEPS, ToolAgent, exported, traces_of

from gateway import Config, ConfigError, Trace
from gateway.client import AsyncGatewayClient
from gateway.config import StorageSettings
from gateway.testing import NO_PROBES, GatewayFor, ScriptedWorker, entry

OTHER = [STEPS[0], STEPS[1], Step("All of it fails.")]


async def recorded(
    gateway_for: GatewayFor, path: Path, faults: Mapping[int, Fault] | None = None
) -> list[Trace]:
    async with ScriptedWorker(ScriptedModel(STEPS, faults=faults).script) as worker:
        capture = entry(CAPTURE, wire_responses=True)
        live = await gateway_for("sessions", capture, workers=[worker.url])
        for session in ("one", "two"):
            await ToolAgent(f"{live.url}/sessions/{session}").work(f"Do {session}.")
        return await exported(live, path)


async def command(path: Path, *arguments: str) -> int:
    """Run the command in another thread, as it has an event loop of its own."""
    storage = StorageSettings(path=str(path.with_name("new.db")))
    parser = argparse.ArgumentParser()
    parser.set_defaults(settings=Config(storage=storage, probes=NO_PROBES))
    add_replay_command(parser.add_subparsers())
    options = parser.parse_args(["replay", str(path), *arguments])
    status: int = await asyncio.to_thread(options.run, options)
    return status


async def new_traces(gateway_for: GatewayFor, path: Path) -> tuple[list[Trace], list[Any]]:
    """What the command has left in its database: the traces, and the metadata of the sessions."""
    storage = StorageSettings(path=str(path.with_name("new.db")))
    live = await gateway_for("sessions", CAPTURE, storage=storage)
    async with AsyncGatewayClient(live.url) as client:
        metadata = [session.metadata for session in await client.list_sessions()]
    return await traces_of(live), metadata


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]


async def test_command_replays_a_whole_run_without_a_worker(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    before = await recorded(gateway_for, path)
    assert await command(path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("one -> one.replay-")
    assert [line.split()[:3] for line in lines[2:5]] == [
        [str(step), "recorded", "200"] for step in (1, 2, 3)
    ]
    assert lines[5].startswith("two -> two.replay-")
    traces, metadata = await new_traces(gateway_for, path)
    assert [trace.choices for trace in traces] == [trace.choices for trace in before]
    assert [trace.wire_response for trace in traces] == [trace.wire_response for trace in before]
    assert [one["replay"]["session_id"] for one in metadata] == ["one", "two"]


async def test_command_asks_another_model_after_a_step_and_compares(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    before = await recorded(gateway_for, path)
    model = ScriptedModel(OTHER, model="other")
    async with ScriptedWorker(model.script) as worker:
        arguments = ("--to-step", "1", "--model", "other", "--worker", worker.url, "--json")
        assert await command(path, *arguments) == 0
    found = printed(capsys)
    assert [one["source"] for one in found] == ["recorded", "live", "live"] * 2
    assert [one["equal"] for one in found] == [True, True, False] * 2
    assert {request.model for request in model.asked} == {"other"}
    last, recorded_last = found[2], before[2]
    assert (last["recorded_text"], last["text"]) == (STEPS[2].text, OTHER[2].text)
    where = last["first_difference"]
    ids = recorded_last.completion_token_ids
    assert where["recorded_id"] == ids[where["at"]] != where["found_id"]
    # The prompt of each step is the recorded one, whatever was sampled before.
    assert len(model.asked[1].messages) == len(recorded_last.messages)
    traces, _ = await new_traces(gateway_for, path)
    assert [trace.metadata["replay"]["trace_id"] for trace in traces] == [
        trace.trace_id for trace in before
    ]
    assert {one["trace_id"] for one in found} == {trace.trace_id for trace in traces}


async def test_command_fails_if_a_step_is_answered_with_another_status(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    await recorded(gateway_for, path)
    nobody = ("--to-step", "2", "--worker", "http://127.0.0.1:9", "--json")
    assert await command(path, *nobody) == 1
    found = printed(capsys)
    assert [(one["source"], one["status"]) for one in found[:3]] == [
        ("recorded", 200),
        ("recorded", 200),
        ("live", 502),
    ]
    assert not found[2]["equal"]


@pytest.mark.slow
async def test_command_replays_a_response_that_broke_off(
    gateway_for: GatewayFor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    async with ScriptedWorker(ScriptedModel(STEPS, faults={1: "cut"}).script) as worker:
        capture = entry(CAPTURE, wire_responses=True)
        live = await gateway_for("sessions", capture, workers=[worker.url])
        with pytest.raises(openai.APIConnectionError):
            await ToolAgent(f"{live.url}/sessions/one").work()
        await exported(live, path)
    assert await command(path, "--json") == 0
    [found] = printed(capsys)
    assert (found["source"], found["equal"], found["tokens"]) == (
        "recorded",
        True,
        found["recorded_tokens"],
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "other"], "--model needs --to-step"),
        (["--to-step", "1"], "name one, --worker URL"),
        ([], "No such file"),
    ],
)
async def test_command_names_what_is_missing(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        await command(tmp_path / "run.jsonl", *arguments)
