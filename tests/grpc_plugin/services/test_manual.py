"""docs/grpc.md says of the gateway's own service what it has, and its example works."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from support.grpc.in_process import MESSAGES
from support.grpc.stubs import serving_grpc
from support.manual import Manual
from support.paths import DOCS, ROOT

from gateway.simulator import Simulator

MANUAL = Manual(DOCS / "grpc.md")
SECTION = MANUAL.text.partition("\n## The service of the gateway\n")[2].partition("\n## ")[0]
NAMED = {*re.findall(r"`(\w+)`", SECTION)}

EXPLAINED = (
    *("JsonRequest", "JsonChunk", "GenerateRequest", "CallMeta", "Message", "Sampling"),
    *("Logprobs", "Returned", "GenerateEvent", "Start", "PromptLogprobs", "Delta", "Finish"),
    *("Usage", "Notice", "Model", "AbortRequest", "AbortResponse"),
)

UNSAID = {"role"}
"""Fields that need no word."""


@pytest.mark.parametrize("name", EXPLAINED)
def test_manual_names_each_field(name: str) -> None:
    fields = set(MESSAGES.type(f"gateway.v1.{name}").DESCRIPTOR.fields_by_name)
    assert fields - NAMED <= UNSAID


def test_manual_has_each_method() -> None:
    file = MESSAGES.type("gateway.v1.JsonRequest").DESCRIPTOR.file
    methods = file.services_by_name["GatewayService"].methods
    row = r"^\| `(\w+)` \| `(\w+)` \| (?:a stream of )?`(\w+)` \|"
    rows = re.findall(row, SECTION, re.MULTILINE)
    assert rows == [(one.name, one.input_type.name, one.output_type.name) for one in methods]


async def test_example_prints_tokens_with_stubs_made_as_printed(
    simulator: Simulator, tmp_path: Path
) -> None:
    command = MANUAL.block("sh", "examples/grpc_generate.py")
    command = command.replace("build/stubs", str(tmp_path / "stubs"))
    command = command.replace(".venv/bin/python", sys.executable)
    async with serving_grpc(simulator.url, tmp_path) as (_, port):
        environ = {**os.environ, "LLM_GATEWAY_ADDR": f"127.0.0.1:{port}"}
        running = await asyncio.create_subprocess_exec(
            "bash", "-ec", command, cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await running.communicate()
    *deltas, last = told.decode().splitlines()
    assert running.returncode == 0
    tokens = [pair for line in deltas for pair in re.findall(r"\((\d+), -?[\d.e-]+\)", line)]
    assert last == f"{len(tokens)} tokens"
    assert tokens
