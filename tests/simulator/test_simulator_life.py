"""The process of a simulated engine: its load, its crash, its last words."""

import signal
import subprocess
import sys
from time import monotonic

import httpx
import pytest
from support.ports import free_port

from gateway.simulator import Life

MAIN = "from gateway.cli import main; main()"


def simulate(*options: str) -> subprocess.Popen[str]:
    command = (sys.executable, "-c", MAIN, "simulate", *options)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def until_it_listens(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert any("Uvicorn running on" in line for line in process.stderr)


def ended(process: subprocess.Popen[str]) -> int:
    process.terminate()
    process.communicate(timeout=10)
    return process.returncode


def test_it_tells_of_the_progress_of_a_load_and_does_not_listen() -> None:
    port = free_port()
    process = simulate("--port", str(port), "--load-time", "60")
    assert process.stderr is not None
    process.stderr.readline()  # that it simulates
    progress = [process.stderr.readline() for _ in range(2)]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
    assert all("loading weights: " in line for line in progress)
    assert ended(process) == -signal.SIGTERM


def test_it_listens_after_its_load() -> None:
    port = free_port()
    began = monotonic()
    process = simulate("--port", str(port), "--load-time", "0.5")
    until_it_listens(process)
    assert monotonic() - began >= 0.5
    assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=None).status_code == 200
    ended(process)


@pytest.mark.parametrize(("code", "status"), [(1, 1), (0, 0), (137, -9), (139, -11)])
def test_it_crashes_with_its_last_words(code: int, status: int) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    options = ("--load-time", "60", "--crash", "0.1", "--exit-code", str(code))
    process = simulate(*options, "--last-words", words)
    _, printed = process.communicate(timeout=20)
    assert process.returncode == status
    assert printed.endswith(f"{words}\n")


def test_a_context_that_does_not_fit_ends_it_with_an_estimate() -> None:
    process = simulate("--max-model-len", "20000", "--kv-cache-tokens", "9000")
    _, printed = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the estimated maximum model length is 9000. " in printed


@pytest.mark.parametrize("wrong", [{"load_time": -1.0}, {"crash": -1.0}, {"exit_code": 300}])
def test_a_life_without_sense_is_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Life(**wrong)  # type: ignore[arg-type]
