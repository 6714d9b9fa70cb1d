"""docs/batch.md: its examples are run as printed but for the port, its tables are complete."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.items import CANCELLED, EXPIRED
from support.manual import Manual, running, shell
from support.paths import DOCS, ROOT

from gateway.config import load

MANUAL = Manual(DOCS / "batch.md")
PLUGIN = ROOT / "plugins/gateway_plugins/batch"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running("demo", "--plugin", "batch", cwd=tmp_path_factory.mktemp("demo")) as url:
        yield url


def test_fault_3_1_the_printed_poll_loop_ends_with_the_completed_item(
    demo: str, tmp_path: Path
) -> None:
    item = json.loads(shell(MANUAL.block("sh", "status_url", demo), tmp_path))
    assert item["status"] == "completed"
    assert item["choices"][0]["message"]["content"]
    assert item["id"].startswith("chatcmpl-")


def test_printed_httpx_loop_prints_the_text(demo: str, tmp_path: Path) -> None:
    code = MANUAL.block("python", "import httpx", demo)
    assert shell(f"{sys.executable} - <<'END'\n{code}\nEND", tmp_path).strip()


def test_printed_job_is_accepted(demo: str, tmp_path: Path) -> None:
    job = json.loads(shell(MANUAL.block("sh", "/v1/jobs", demo), tmp_path))
    url = f"{demo}/v1/jobs/{job['job_id']}?wait=10"
    done = json.loads(shell(f"curl -sS '{url}'", tmp_path))
    assert (done["status"], done["input"]) == ("completed", "Say hello")


def test_printed_openai_client_reads_the_results_of_its_batch(demo: str, tmp_path: Path) -> None:
    code = MANUAL.block("python", "import OpenAI", demo)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    status, *lines = done.stdout.splitlines()
    assert status.startswith("completed BatchRequestCounts(completed=3, failed=0, total=3")
    assert [line.split()[0] for line in lines] == ["request-0", "request-1", "request-2"]


def test_printed_commands_work_beside_a_gateway(tmp_path: Path) -> None:
    body = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    (tmp_path / "requests.jsonl").write_text(json.dumps(body) + "\n")
    arguments = ("serve", "--worker", "http://127.0.0.1:9", "--plugin", "batch")
    with running(*arguments, cwd=tmp_path):
        printed = shell(MANUAL.block("sh", "gateway batch import"), tmp_path)
    assert printed.splitlines()[-1] == "0 items queued"
    [line] = (tmp_path / "ids.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == 1


def test_configuration_manual_lists_each_option_with_its_default() -> None:
    section = (DOCS / "config.md").read_text().partition("### batch\n")[2].partition("\n##")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", section, re.MULTILINE))
    fields = msgspec.structs.fields(Options)
    assert rows == {field.name: json.dumps(field.default) for field in fields}


def test_manual_lists_each_code_of_the_plugin() -> None:
    section = MANUAL.text.partition("\n## Errors\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.+?)\|", section, re.MULTILINE))))
    assert codes() <= listed


def codes() -> set[str]:
    """The codes of the plugin's own errors, and of those that its items get."""
    source = "".join(file.read_text() for file in PLUGIN.rglob("*.py"))
    of_classes = re.findall(r'^    code = "(\w+)"$', source, re.MULTILINE)
    return {*of_classes, *re.findall(r'\bItemError\(\s*"(\w+)"', source), EXPIRED, CANCELLED}


def test_shipped_configuration_has_valid_options() -> None:
    settings = load(ROOT / "configs" / "batch.yaml", {})
    problems: list[str] = []
    [entry] = [plugin for plugin in settings.plugins if plugin.name == "batch"]
    assert entry.options_as(Options, problems) is not None
    assert problems == []
