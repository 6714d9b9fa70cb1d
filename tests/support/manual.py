"""The code blocks of a manual, and `gateway` processes to run them against."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port

GATEWAY = Path(sys.executable).with_name("gateway")
DEFAULT_URL = "http://127.0.0.1:9090"


class Manual:
    """A page of Markdown and its code blocks."""

    def __init__(self, page: Path) -> None:
        self.text = page.read_text()
        self._blocks = re.findall(r"^```(\w+)\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)

    def block(self, language: str, part: str, url: str = DEFAULT_URL) -> str:
        """The one block in `language` that contains `part`, for a gateway at `url`."""
        found = [text for lang, text in self._blocks if lang == language and part in text]
        assert len(found) == 1, f"{len(found)} blocks with {part!r}"
        return str(found[0]).replace(DEFAULT_URL, url)

    def arguments(self, part: str, worker: str) -> list[str]:
        """The arguments of the `gateway` command that contains `part`, for this worker."""
        _, *arguments = shlex.split(self.block("sh", part))
        return [f"{worker}/v1" if "://" in one else one for one in arguments]


@contextmanager
def running(*arguments: str, cwd: Path) -> Iterator[str]:
    """A `gateway` process, from its first response until the block ends; gives its URL."""
    port = free_port()
    command = [str(GATEWAY), *arguments, "--port", str(port)]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/health", process)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url).close()
        except (urllib.error.URLError, ConnectionError):
            continue
        return
    pytest.fail(f"{url} did not respond")


def shell(command: str, cwd: Path, **variables: str) -> str:
    """Run the commands of a block, with the `gateway` of this environment; returns the output."""
    command = command.replace(".venv/bin/gateway", "gateway")
    path = f"{GATEWAY.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=cwd,
        env={**os.environ, **variables, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
