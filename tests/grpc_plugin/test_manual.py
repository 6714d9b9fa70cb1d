"""docs/grpc.md says what the code says, and its commands run as printed."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from gateway_plugins.grpc.flag.environment import NAMES
from gateway_plugins.grpc.options import Options, Tls
from gateway_plugins.grpc.status import BY_REASON, BY_STATUS, Code
from support.callers.scraping import Scrape
from support.grpc.stubs import as_of_old, channel, make_stubs, serving_grpc
from support.manual import Manual, running
from support.paths import CONFIGS, DOCS, ROOT
from support.ports import free_port

from gateway.config import load
from gateway.simulator import Simulator

MANUAL = Manual(DOCS / "grpc.md")
ADDRESS = "127.0.0.1:50052"


def section(title: str) -> str:
    found = MANUAL.text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, f"docs/grpc.md has no section {title!r}"
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of gRPC of the demo that the page begins with."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_GATEWAY_PORT", str(port))
        with running("demo", "--grpc", cwd=tmp_path_factory.mktemp("demo")):
            yield f"127.0.0.1:{port}"


def printed(part: str, demo: str, **environ: str) -> str:
    """Run the block of commands that contains `part` in the clone; return the output."""
    command = MANUAL.block("sh", part).replace(ADDRESS, demo)
    command = command.replace(".venv/bin/python", sys.executable)
    environ = {**os.environ, "LLM_GATEWAY_ADDR": demo, **environ}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_streams_an_answer_with_stubs_made_as_printed(demo: str) -> None:
    said = printed("examples/grpc_worker.py", demo)
    text, _, end = said.strip().rpartition("\n")
    assert text
    assert re.fullmatch(r"\[(stop|length): \d+ tokens in \d+ ms\]", end)


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
def test_commands_of_grpcurl_work_as_printed(demo: str) -> None:
    listed, _, streamed = printed("grpcurl -plaintext -d", demo).partition("{")
    assert "llm.v1.LlmService" in listed.split()
    assert json.loads("{" + streamed.partition("}")[0] + "}")["deltaText"]
    assert '"finishReason"' in streamed


def test_manual_lists_each_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \| .+ \|$", section("Options"), re.MULTILINE))
    fields = {field.name: field.default for field in msgspec.structs.fields(Options)}
    fields |= {f"tls.{field.name}": field.default for field in msgspec.structs.fields(Tls)}
    assert rows == {
        name: "required" if default is msgspec.NODEFAULT else f"`{json.dumps(default)}`"
        for name, default in fields.items()
    }


def test_manual_lists_each_code_and_each_reason_of_the_table() -> None:
    text = section("Status codes")
    codes = {code for code, _ in BY_STATUS.values()} | {*BY_REASON.values()}
    assert codes <= {Code[name] for name in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)}
    reasons = {reason for _, reason in BY_STATUS.values()} | {*BY_REASON}
    assert {reason.upper() for reason in reasons} <= {*re.findall(r"`(\w+)`", text)}


def test_manual_lists_each_variable_of_the_old_server() -> None:
    rows = re.findall(
        r"^\| (`\w+`) \| (`\w+`)? ?\|", section("Instead of the old server"), re.MULTILINE
    )
    assert {name.strip("`") for row in rows for name in row if name} == NAMES


async def test_manual_lists_each_metric_and_each_field_of_the_log(
    simulator: Simulator, tmp_path: Path
) -> None:
    messages, stubs = make_stubs(as_of_old(tmp_path), tmp_path)

    def ask(port: int) -> None:
        with channel(port) as opened:
            asked = messages.ChatCompletionRequest(model="sim", user_prompt="Hi", max_tokens=2)
            assert list(stubs.LlmServiceStub(opened).ChatCompletionStream(asked, timeout=10))

    async with serving_grpc(simulator.url, tmp_path, "access_log", "metrics") as (process, port):
        await asyncio.to_thread(ask, port)
        line = await process.says(re.compile(rb'\{[^\n]*"message":"gRPC call"[^\n]*\n'))
        seen = await process.says(re.compile(rb'\{[^\n]*"call_id"[^\n]*"frontend":"grpc"\}\n'))
        async with httpx.AsyncClient() as client:
            found = Scrape((await client.get(f"{process.url}/metrics")).text)
    fields = json.loads(line[0])["fields"]
    text = section("Log and metrics")
    names = {*re.findall(r"`(\w+)`", text.partition("`fields`:")[2].partition(". ")[0])}
    absent = {"session_id", "principal", "reason", "trace_id", "span_id"}
    assert names == {*fields, *absent}
    assert fields["request_id"] == json.loads(seen[0])["call_id"]
    assert found.value("gateway_requests_total", frontend="grpc", status="200") == 1
    told = {name for name in found.families if name.startswith("gateway_grpc_")}
    listed = re.findall(r"^\| `(gateway_grpc_\w+)`", text, re.MULTILINE)
    assert {name.removesuffix("_total") for name in listed} == told


def test_shipped_configuration_is_the_one_of_the_manual() -> None:
    block = MANUAL.block("yaml", "api.openai.com")
    assert block.partition("workers:\n")[2] in (CONFIGS / "grpc.yaml").read_text(encoding="utf-8")
    settings = load(CONFIGS / "grpc.yaml", {"OPENAI_API_KEY": "k"})
    problems: list[str] = []
    [entry] = [plugin for plugin in settings.plugins if plugin.name == "grpc"]
    assert entry.options_as(Options, problems) is not None
    assert problems == []
