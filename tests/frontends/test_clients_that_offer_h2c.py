"""Real clients that offer HTTP/2 over plain http with their first request, body and all."""

import asyncio
import shutil
import subprocess

import pytest
from support.callers.seen_request import seen
from support.paths import SUPPORT

from gateway.config import Config, Worker
from gateway.testing import NO_PROBES, Live, ScriptedWorker, answer_of, live

CHAT = "/v1/chat/completions"
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
ANSWER = b'{"choices": []}'


def curl_speaks_http2() -> bool:
    if shutil.which("curl") is None:
        return False
    return b"HTTP2" in subprocess.run(["curl", "--version"], capture_output=True).stdout


async def said_by(*command: str) -> bytes:
    """What a command prints. Raises AssertionError if it fails."""
    running = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, wrong = await running.communicate()
    assert running.returncode == 0, wrong
    return out


def before(worker: ScriptedWorker) -> Config:
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),))


def check(worker: ScriptedWorker, gateway: Live, times: int) -> None:
    carried = [seen(request) for request in worker.requests]
    assert [(one.method, one.target, one.body) for one in carried] == [("POST", CHAT, BODY)] * times
    assert not gateway.gateway.calls_in_flight


@pytest.mark.skipif(not curl_speaks_http2(), reason="no curl with HTTP/2 is installed")
@pytest.mark.parametrize("framing", [[], ["-H", "transfer-encoding: chunked"]])
async def test_curl_with_http2_is_answered_in_http_1_1(framing: list[str]) -> None:
    async with ScriptedWorker(answer_of(ANSWER)) as worker, live(before(worker)) as gateway:
        line = ("-sS", "--http2", "--max-time", "10", "-w", " %{http_version}", *framing)
        url = f"{gateway.url}{CHAT}"
        said = await said_by("curl", *line, "--data-binary", BODY.decode(), url, url)
        check(worker, gateway, 2)
    assert said == (ANSWER + b" 1.1") * 2


@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK is installed")
async def test_java_client_is_answered_in_http_1_1() -> None:
    async with ScriptedWorker(answer_of(ANSWER)) as worker, live(before(worker)) as gateway:
        java = ("java", "-XX:TieredStopAtLevel=1", str(SUPPORT / "callers" / "Ask.java"))
        said = await said_by(*java, f"{gateway.url}{CHAT}", BODY.decode())
        check(worker, gateway, 2)
    assert said.splitlines() == [b"200 HTTP_1_1 " + ANSWER] * 2
