"""README's code blocks, run as printed but for the port and the folder."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import httpx
import pytest
from support.manual import Manual, running, shell
from support.paths import ROOT

README = Manual(ROOT / "README.md")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running("demo", cwd=tmp_path_factory.mktemp("demo")) as url:
        yield url


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_fits_120_lines_of_110_columns() -> None:
    lines = README.text.splitlines()
    assert len(lines) <= 120
    assert max(len(line) for line in lines) <= 110


def test_readme_make_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert README.block("sh", "make demo") == "make demo\n"
    assert README.block("sh", "make test") == "make test\n"
    for target, needs in (("demo", "kernel"), ("test", "kernel"), ("kernel", r"\$\(STAMP\)")):
        assert re.search(rf"^{target}: {needs}$", makefile, re.MULTILINE)


def test_readme_curl_command_works_against_the_demo(demo: str, tmp_path: Path) -> None:
    answer = json.loads(shell(README.block("sh", "9090/v1/chat", demo), tmp_path))
    assert answer["choices"][0]["message"]["content"]


def test_readme_dashboard_is_in_the_demo(demo: str) -> None:
    with urlopen(f"{demo}/dashboard") as page:
        assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_demo_captures_other_apis_in_full(demo: str, api: str) -> None:
    asked = {"model": "sim", "max_tokens": 5, "max_output_tokens": 5, "input": "Hello"}
    asked |= {"messages": [{"role": "user", "content": "Hello"}]}
    with httpx.Client(base_url=f"{demo}/sessions/my-{api}") as client:
        assert client.post(f"/v1/{api}", json=asked).status_code == 200
        [trace] = client.get("/traces").json()
    assert (trace["verdict"], trace["translated_from"]) == ("COMPLETE", api)


def test_readme_openai_snippet_works_against_the_demo(demo: str, tmp_path: Path) -> None:
    printed = python(README.block("python", "import OpenAI", demo), tmp_path)
    plain, _, streamed = printed.partition("\n")
    assert plain
    assert streamed


def test_readme_commands_read_a_trace_from_the_demo(demo: str, tmp_path: Path) -> None:
    lines = shell(README.block("sh", "my-agent/traces", demo), tmp_path)
    answer, end = json.JSONDecoder().raw_decode(lines)
    [trace] = json.loads(lines[end:])
    assert trace["verdict"] == "COMPLETE"
    assert len(trace["completion_token_ids"]) == answer["usage"]["completion_tokens"]
    printed = python(README.block("python", "GatewayClient", demo), tmp_path)
    assert printed.startswith(f"COMPLETE {trace['prompt_token_ids']}"[:-1])


def test_readme_serve_command_forwards_to_its_worker(demo: str, tmp_path: Path) -> None:
    with running(*README.arguments("--plugin access_log", demo), cwd=tmp_path) as url:
        models = json.loads(shell(f"curl -sS {url}/sessions/a/v1/models", tmp_path))
    assert models["data"][0]["id"] == "sim"


def test_readme_capture_plugin_writes_token_ids_and_logprobs(demo: str, tmp_path: Path) -> None:
    (tmp_path / "capture.py").write_text(README.block("python", "# capture.py"))
    with running(*README.arguments("./capture.py", demo), cwd=tmp_path) as url:
        answer = json.loads(shell(README.block("sh", "9090/v1/chat", url), tmp_path))
    assert answer["choices"][0]["token_ids"] is None
    [line] = (tmp_path / "samples.txt").read_text().splitlines()
    ids, logprobs = map(json.loads, re.findall(r"\[.*?\]", line))
    assert len(ids) == len(logprobs) == answer["usage"]["completion_tokens"]
