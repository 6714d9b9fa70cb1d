"""`llm.v1` as its callers use it: stubs of old against a gateway in a process of its own."""

import asyncio
from pathlib import Path

import grpc
import pytest
from support.grpc.stubs import as_of_old, channel, make_stubs, serving_grpc

from gateway.simulator import Simulator


@pytest.fixture
def worker(simulator: Simulator) -> str:
    return simulator.url


async def test_stubs_of_old_get_a_title_and_a_streamed_answer(worker: str, tmp_path: Path) -> None:
    messages, stubs = make_stubs(as_of_old(tmp_path), tmp_path)
    asked = messages.ChatCompletionRequest(
        model="sim", system_prompt="Be short.", user_prompt="Hello", max_tokens=8, top_p=0.95
    )

    def ask(port: int) -> None:
        with channel(port) as opened:
            stub = stubs.LlmServiceStub(opened)
            title = stub.ChatCompletion(asked, timeout=10)
            assert title.output_text
            assert title.finish_reason in ("stop", "length")
            assert title.total_tokens == title.prompt_tokens + title.completion_tokens
            stream = stub.ChatCompletionStream(asked, timeout=10)
            *chunks, last = list(stream)
            assert "".join(chunk.deltaText for chunk in chunks)
            assert (last.deltaText, last.completionTokens > 0) == ("", True)
            assert last.finishReason in ("stop", "length")
            assert stream.code() is grpc.StatusCode.OK

    async with serving_grpc(worker, tmp_path) as (_, port):
        await asyncio.to_thread(ask, port)
