"""`llm.v1` in front of a real vLLM: `VLLM_URL=http://127.0.0.1:8000 pytest -m vllm`."""

import asyncio
import os
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import pytest
from support.grpc.stubs import as_of_old, channel, make_stubs, serving_grpc

URL = os.environ.get("VLLM_URL", "")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not URL, reason="VLLM_URL does not name a running vLLM"),
]


@pytest.fixture
def stubs(tmp_path: Path) -> tuple[ModuleType, ModuleType]:
    return make_stubs(as_of_old(tmp_path), tmp_path)


async def asked(
    stubs: tuple[ModuleType, ModuleType], folder: Path, use: Any, **fields: object
) -> Any:
    """What `use` makes of the stub and a request, in a thread."""
    messages, services = stubs
    async with httpx.AsyncClient(base_url=URL) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
    request = messages.ChatCompletionRequest(model=model, user_prompt="Count to five.", **fields)

    def ask(port: int) -> Any:
        with channel(port) as opened:
            return use(services.LlmServiceStub(opened), request)

    async with serving_grpc(URL, folder) as (_, port):
        return await asyncio.to_thread(ask, port)


async def test_vllm_answers_at_once_and_in_a_stream(
    stubs: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    def use(stub: Any, request: Any) -> tuple[Any, list[Any], Any]:
        stream = stub.ChatCompletionStream(request, timeout=60)
        return stub.ChatCompletion(request, timeout=60), list(stream), stream.code()

    whole, chunks, code = await asked(stubs, tmp_path, use, max_tokens=24, temperature=0.7)
    assert code is grpc.StatusCode.OK
    assert whole.output_text
    assert whole.finish_reason in ("stop", "length")
    *texts, last = chunks
    assert len(texts) > 1
    assert texts[0].latencyMs <= last.latencyMs
    assert (last.deltaText, last.finishReason in ("stop", "length")) == ("", True)
    assert last.promptTokens == whole.prompt_tokens > 0
    assert 0 < last.completionTokens <= 24


async def test_vllm_stops_when_its_caller_cancels(
    stubs: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    def use(stub: Any, request: Any) -> tuple[Any, float]:
        stream = stub.ChatCompletionStream(request)
        for _ in range(3):
            next(stream)
        assert running() == 1
        stream.cancel()
        return stream.code(), seconds_until_idle()

    code, seconds = await asked(stubs, tmp_path, use, max_tokens=1900)
    assert code is grpc.StatusCode.CANCELLED
    assert seconds < 5


def running() -> float:
    """How many requests vLLM says that it runs."""
    text = httpx.get(f"{URL}/metrics").text
    [count] = re.findall(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", text, re.MULTILINE)
    return float(count)


def seconds_until_idle() -> float:
    began = time.monotonic()
    while running():
        assert time.monotonic() - began < 20, "vLLM goes on"
    return time.monotonic() - began
