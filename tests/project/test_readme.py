"""README's code blocks, run as printed but for the port and the folder."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.paths import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
GATEWAY = Path(sys.executable).with_name("gateway")


def block(language: str, part: str) -> str:
    """The one block in `language` that has `part` in it."""
    found = [text for lang, text in BLOCKS if lang == language and part in text]
    assert len(found) == 1, f"{len(found)} blocks with {part!r}"
    return str(found[0])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(*arguments: str, port: int, cwd: Path) -> Iterator[str]:
    """A `gateway` process, from when it answers on `port` until the block ends."""
    process = subprocess.Popen([GATEWAY, *arguments], cwd=cwd, stderr=subprocess.PIPE)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url).close()
        except (urllib.error.URLError, ConnectionError):
            continue
        return
    pytest.fail(f"{url} did not answer")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    cwd = tmp_path_factory.mktemp("demo")
    with running("demo", "--port", str(port), port=port, cwd=cwd) as url:
        yield url


def shell(command: str, cwd: Path) -> str:
    command = command.replace(".venv/bin/gateway", str(GATEWAY))
    done = subprocess.run(["bash", "-ec", command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert block("sh", "make demo") == "make demo\n"
    assert block("sh", "make test") == "make test\n"
    assert re.search(r"^demo: \$\(STAMP\)", makefile, re.MULTILINE)
    assert re.search(r"^test: \$\(STAMP\)", makefile, re.MULTILINE)


def test_curl_against_the_demo(demo: str, tmp_path: Path) -> None:
    command = block("sh", "9090/v1/chat").replace("http://127.0.0.1:9090", demo)
    answer = json.loads(shell(command, tmp_path))
    assert answer["choices"][0]["message"]["content"]


def test_a_trace_is_read_back_from_the_demo(demo: str, tmp_path: Path) -> None:
    answers = [
        json.loads(shell(block("sh", part).replace("http://127.0.0.1:9090", demo), tmp_path))
        for part in ("my-agent/v1/chat", "my-agent/traces")
    ]
    answer, [trace] = answers
    assert trace["verdict"] == "COMPLETE"
    assert len(trace["completion_token_ids"]) == answer["usage"]["completion_tokens"]
    code = block("python", "GatewayClient").replace("http://127.0.0.1:9090", demo)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"COMPLETE {trace['prompt_token_ids']}"[:-1])


def test_openai_snippet_against_the_demo(demo: str, tmp_path: Path) -> None:
    code = block("python", "from openai").replace("http://127.0.0.1:9090", demo)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, _, streamed = done.stdout.partition("\n")
    assert plain
    assert streamed


def test_configuration_is_good(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(block("yaml", "gpu-0"))
    commands = block("sh", "config check").splitlines()
    assert "2 workers, 2 plugins" in shell(commands[0], tmp_path)
    assert "access_log" in shell(commands[1], tmp_path)
    assert " serve --config gateway.yaml" in commands[2]


def test_first_serve_command(demo: str, tmp_path: Path) -> None:
    port = free_port()
    arguments = block("sh", "--plugin access_log").split()[1:]
    arguments = [demo + "/v1" if "://" in part else part for part in arguments]
    with running(*arguments, "--port", str(port), port=port, cwd=tmp_path) as url:
        models = json.loads(shell(f"curl -sS {url}/sessions/a/v1/models", tmp_path))
    assert models["data"][0]["id"] == "sim"


def test_traces_are_read_without_a_gateway(demo: str, tmp_path: Path) -> None:
    port = free_port()
    arguments = block("sh", "--plugin trace_capture").split()[1:]
    arguments = [demo + "/v1" if "://" in part else part for part in arguments]
    with running(*arguments, "--port", str(port), port=port, cwd=tmp_path) as url:
        shell(block("sh", "my-agent/v1/chat").replace("http://127.0.0.1:9090", url), tmp_path)
    assert "my-agent" in shell(block("sh", "traces list"), tmp_path)
    assert len((tmp_path / "traces.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "trajectories.parquet").stat().st_size > 0


def test_capture_plugin_writes_the_tokens(demo: str, tmp_path: Path) -> None:
    (tmp_path / "capture.py").write_text(block("python", "# capture.py"))
    port = free_port()
    arguments = block("sh", "./capture.py").split()[1:]
    arguments = [demo + "/v1" if "://" in part else part for part in arguments]
    with running(*arguments, "--port", str(port), port=port, cwd=tmp_path) as url:
        command = block("sh", "9090/v1/chat").replace("http://127.0.0.1:9090", url)
        answer = json.loads(shell(command, tmp_path))
    assert answer["choices"][0]["token_ids"] is None
    [line] = (tmp_path / "traces.jsonl").read_text().splitlines()
    trace = json.loads(line)
    assert len(trace["ids"]) == len(trace["logprobs"]) == answer["usage"]["completion_tokens"]


def test_a_key_is_made_used_billed_and_revoked(demo: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    workers = block("yaml", "auth:").replace("http://127.0.0.1:8000/v1", demo + "/v1")
    file.write_text(workers)
    key = shell(block("sh", "keys create"), tmp_path).strip()
    port = free_port()
    with running("serve", "--config", str(file), "--port", str(port), port=port, cwd=tmp_path):
        url = f"http://127.0.0.1:{port}"
        call = block("sh", "my-agent/v1/chat").replace("http://127.0.0.1:9090", url)
        assert json.loads(shell(call, tmp_path))["error"]["code"] == "invalid_api_key"
        shell(call.replace("curl", f"curl -H 'authorization: Bearer {key}'"), tmp_path)
        looks = block("sh", "/monitor/key_usage").replace("http://127.0.0.1:9090", url)
        told = shell(f"KEY={key}\n{looks}", tmp_path)
    assert told.count('"requests":1') >= 2
    assert "me" in shell(block("sh", "usage verify"), tmp_path)
    assert json.loads((tmp_path / "keys.json").read_text())["keys"][0]["revoked"]
