"""A chat worker: streams an answer over llm.v1. docs/grpc.md says how to make its stubs.

PYTHONPATH=build/stubs python examples/grpc_worker.py "Tell me a story."
"""

import asyncio
import os
import sys

import grpc
from llm_pb2 import ChatCompletionRequest
from llm_pb2_grpc import LlmServiceStub


async def answer(prompt: str) -> None:
    address = os.environ.get("LLM_GATEWAY_ADDR", "127.0.0.1:50052")
    model = os.environ.get("LLM_DEFAULT_MODEL", "sim")
    request = ChatCompletionRequest(model=model, user_prompt=prompt, max_tokens=64)
    async with grpc.aio.insecure_channel(address) as channel:
        stream = LlmServiceStub(channel).ChatCompletionStream(request, timeout=600)
        async for chunk in stream:
            print(chunk.deltaText, end="", flush=True)
        print(f"\n[{chunk.finishReason}: {chunk.totalTokens} tokens in {chunk.latencyMs} ms]")


asyncio.run(answer(sys.argv[1]))
