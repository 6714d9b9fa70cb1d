"""`gateway doctor` as it is called: its options, its output, its exit status, gateways that run."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.cli.doctor.commands import add_doctor_command
from gateway_plugins.trace_capture.cli.doctor.kinds import KINDS, NAMES
from support.gateways.capturing import CAPTURE, capturing
from support.gateways.with_keys import KeysOnDisk, key, keyed
from support.paths import DOCS
from support.workers.spoiled_engine import Spoiled

from gateway.config import Config, Worker
from gateway.errors import ConfigError
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, ScriptedWorker, entry

Json = Any
TRANSLATE = "gateway_plugins.translate:Translate"


def options(*arguments: str, config: Config) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_doctor_command(parser.add_subparsers())
    parser.set_defaults(settings=config)
    return parser.parse_args(["doctor", *arguments])


async def run(*arguments: str, config: Config | None = None) -> int:
    """The exit status of the command; it has a loop of its own."""
    found = options(*arguments, config=config or Config())
    status: int = await asyncio.to_thread(found.run, found)
    return status


def only(*kinds: str) -> Sequence[str]:
    return [part for kind in kinds for part in ("--kind", kind)]


def no_ids(_: Json, said: Json) -> Json:
    for choice in said.get("choices", ()):
        choice.pop("token_ids", None)
    return said


async def test_output_has_a_line_for_each_kind_and_the_status_says_whether_all_is_well(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = only("chat", "chat, streamed")
    assert await run("--worker", simulator.url, *asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == ["chat", "chat,"]
    assert lines[-1] == "All of these calls can be trained on."
    async with Spoiled(simulator.url, no_ids).worker() as worker:
        assert await run("--worker", worker.url, *asked) == 1
    text = capsys.readouterr().out
    assert "1. token_ids_missing: chat; chat, streamed\n" in text
    assert "What to do: Leave `token_ids` of trace_capture" in text


async def test_json_names_workers_kinds_and_problems(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Spoiled(simulator.url, no_ids).worker() as bad:
        workers = (
            Worker(url=simulator.url, worker_id="good"),
            Worker(url=bad.url, worker_id="bad"),
        )
        config = Config(workers=workers, plugins=(entry(CAPTURE), entry(TRANSLATE)))
        assert await run("--json", *only("chat", "messages"), config=config) == 1
        told = msgspec.json.decode(capsys.readouterr().out)
        assert await run("--worker", "good", *only("chat"), config=config) == 0
    found = {one["worker"]: one["checks"] for one in told["workers"]}
    assert [one["verdict"] for one in found["good"]] == ["COMPLETE", "COMPLETE"]
    assert [one["problems"] for one in found["bad"]] == [[1], [1]]
    [problem] = told["problems"]
    assert (problem["reason"], problem["workers"]) == ("token_ids_missing", ["bad"])
    assert (problem["kinds"], told["fine"]) == (["chat", "messages"], False)


async def test_a_configuration_that_captures_nothing_is_a_problem(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(workers=(Worker(url=simulator.url),))
    assert await run(*only("chat"), config=config) == 1
    text = capsys.readouterr().out
    assert "not_captured" in text
    assert "Add `sessions` and `trace_capture`" in text


async def test_mistakes_of_the_operator_are_told(simulator: Simulator) -> None:
    with pytest.raises(ConfigError, match="name one by --worker"):
        await run()
    with pytest.raises(ConfigError, match="--worker"):
        await run("--worker", "ftp://x")
    async with ScriptedWorker(b"") as gone:
        url = gone.url
    with pytest.raises(ConfigError, match=url):
        await run("--url", url)
    with pytest.raises(ConfigError, match="--url"):
        await run("--url", "http://a:b")
    with pytest.raises(ConfigError, match="GET /health/workers"):
        await run("--url", simulator.url)
    for wrong in (["--with", "[1]"], ["--timeout", "0"], ["--timeout", "x"], ["--kind", "no"]):
        with pytest.raises(SystemExit):
            options(*wrong, config=Config())


async def test_a_gateway_that_runs_is_asked_until_each_worker_has_answered(
    gateway_for: GatewayFor,
    simulator: Simulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with Spoiled(simulator.url, no_ids).worker() as bad:
        workers = [
            Worker(url=simulator.url, worker_id="good", models=("sim",)),
            Worker(url=bad.url, worker_id="bad", models=("sim",)),
        ]
        live = await capturing(gateway_for, tmp_path, workers=workers)
        asked = only("chat", "turns", "messages")
        assert await run("--url", live.url, "--json", *asked) == 1
        told = msgspec.json.decode(capsys.readouterr().out)
        [problem] = told["problems"]
        assert (problem["reason"], problem["workers"]) == ("token_ids_missing", ["bad"])
        kinds = {
            one["worker"]: {check["kind"]: check["verdict"] for check in one["checks"]}
            for one in told["workers"]
        }
        assert kinds["good"] == {"chat": "COMPLETE", "turns": "COMPLETE", "messages": "NOT SERVED"}
        assert kinds["bad"] == {
            **dict.fromkeys(kinds["good"], "INCOMPLETE"),
            "messages": "NOT SERVED",
        }
        assert (await live.client.get("/sessions")).json() == []


async def test_a_gateway_with_keys_needs_one_with_the_scopes(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path
) -> None:
    disk = KeysOnDisk(tmp_path / "keys.json")
    scopes = {"a": ["realtime", "sessions"], "b": ["realtime", "monitor"]}
    scopes["c"] = ["realtime", "sessions", "monitor"]
    disk.write(*(key(f"gw-{name}", name, scopes=of) for name, of in scopes.items()))
    live = await keyed(gateway_for, disk, "sessions", CAPTURE)
    for name, lacking in (("a", "monitor"), ("b", "sessions")):
        with pytest.raises(ConfigError, match=f"scope `{lacking}`"):
            await run("--url", live.url, "--api-key", f"gw-{name}", *only("chat"))
    assert await run("--url", live.url, "--api-key", "gw-c", *only("chat")) == 0


async def test_nothing_asked_is_not_all_well(
    gateway_for: GatewayFor,
    simulator: Simulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = Worker(url=simulator.url, models=("sim",))
    live = await capturing(gateway_for, tmp_path, workers=[worker])
    with pytest.raises(ConfigError, match="--model x: no worker serves it"):
        await run("--url", live.url, "--model", "x")
    assert await run("--worker", simulator.url, *only("generate")) == 0
    assert "  chat  " in capsys.readouterr().out


async def test_a_gateway_without_capture_is_told_apart(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions")
    with pytest.raises(ConfigError, match="Add `sessions` and `trace_capture`"):
        await run("--url", live.url, *only("chat"))


def test_the_manual_names_each_kind_and_option() -> None:
    page = (DOCS / "doctor.md").read_text()
    for name in NAMES:
        assert f"`{name}`" in page, name
    for name in ("--worker", "--url", "--api-key", "--model", "--kind", "--with", "--timeout"):
        assert f"`{name}" in page, name
    assert len(NAMES) == len({*NAMES}) == len(KINDS)
