"""Other versions of gRPC and protobuf, and other people's clients of Connect and gRPC-Web.

Opt-in: each test makes its Python itself, in a folder that is deleted with the test.
"""

import asyncio
import json
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.grpc.over_http import OverHttp
from support.grpc.stubs import PORT, PROTOS, as_of_old, make_stubs, serving_grpc
from support.paths import ROOT

from gateway.simulator import Simulator
from gateway.testing import GatewayFor

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1_800)]

HERE = Path(__file__).parent
LLM = PROTOS / "llm.proto"

CLIENT = [f"{name}==1.76.*" for name in ("grpcio", "grpcio-tools", "grpcio-health-checking")]
CLIENT += ["grpcio-reflection==1.76.*", "protobuf==6.33.*"]
"""What the known caller has."""

LOWEST = ["grpcio==1.76.0", "protobuf==5.29.*"]
"""The lowest that the plugin takes."""

START = "from gateway.cli import main; main()"
SERVES = re.compile(rb"http://127\.0\.0\.1:\d+")


async def run(*command: str, **more: str) -> str:
    running = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **more}
    )
    told, _ = await running.communicate()
    assert running.returncode == 0
    return told.decode()


async def python_with(folder: Path, packages: Sequence[str]) -> str:
    """Make a Python with these packages; return its path."""
    await run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin/python")
    await run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def check(found: dict[str, Any]) -> None:
    assert found["counts"] == [8, 8]
    assert found["finish"] == ["length", "length"]
    assert found["title"]
    assert found["text"]
    assert (found["health"], found["watched"]) == (1, 1)
    assert {"llm.v1.LlmService", "gateway.v1.GatewayService"} <= {*found["services"]}
    assert found["file"] == "llm.proto"
    assert found["versions"][1].startswith("6.33.")


async def test_callers_with_older_packages_are_served_by_new_and_by_the_lowest_ones(
    simulator: Simulator, tmp_path: Path
) -> None:
    client = await python_with(tmp_path / "client", CLIENT)
    asking = str(HERE / "asking_grpc.py")
    forms = [str(as_of_old(tmp_path)), str(LLM)]
    options = ["reflection: true"]
    async with serving_grpc(simulator.url, tmp_path, options=options) as (_, port):
        for proto in forms:
            check(json.loads(await run(client, asking, str(port), "sim", proto)))

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    server = await python_with(tmp_path / "server", [*project["dependencies"], *LOWEST])
    file = tmp_path / "lowest.yaml"
    file.write_text(
        "storage: {path: ':memory:'}\nplugins:\n"
        "  - gateway_plugins.grpc:Grpc: {port: 0, reflection: true}\n"
    )
    command = (server, "-c", START, "serve", "--config", str(file), "--port", "0")
    running = await asyncio.create_subprocess_exec(
        *command,
        *("--worker", simulator.url),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
    )
    try:
        assert running.stderr is not None
        log = b""
        while not SERVES.search(log):
            line = await running.stderr.readline()
            assert line, log.decode()
            log += line
        found = PORT.search(log)
        assert found is not None
        for proto in forms:
            check(json.loads(await run(client, asking, found[1].decode(), "sim", proto)))
    finally:
        running.kill()
        await running.communicate()


async def test_clients_of_connect_and_of_grpc_web_are_served(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    client = await python_with(tmp_path / "client", ["connectrpc", "sonora", "grpcio", "protobuf"])
    make_stubs(LLM, tmp_path)
    live = await gateway_for(OverHttp)
    asking = str(HERE / "asking_connect.py")
    found = json.loads(await run(client, asking, live.url, "sim", str(tmp_path)))
    assert found.pop("sonora") == [8, 8, "NOT_FOUND"]
    assert set(found) == {
        f"{protocol} {codec}" for protocol in ("CONNECT", "GRPC_WEB") for codec in ("json", "proto")
    }
    assert all(one == [8, 8, "not_found", 2] for one in found.values())
