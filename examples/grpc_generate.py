"""A rollout over gRPC: the sampled tokens with their logprobs. docs/grpc.md makes the stubs.

PYTHONPATH=build/stubs python examples/grpc_generate.py "Tell me a story."
"""

import os
import sys

import grpc
from gateway_pb2 import GenerateRequest
from gateway_pb2_grpc import GatewayServiceStub

request = GenerateRequest(model=os.environ.get("LLM_DEFAULT_MODEL", "sim"))
request.messages.messages.add(role="user").parts.add(text=sys.argv[1])
request.sampling.max_tokens = 16
request.sampling.temperature = 0
request.logprobs.sampled = request.returned.token_ids = True

with grpc.insecure_channel(os.environ.get("LLM_GATEWAY_ADDR", "127.0.0.1:50052")) as channel:
    for event in GatewayServiceStub(channel).Generate(request, timeout=600):
        if event.HasField("delta"):
            print(list(zip(event.delta.token_ids, event.delta.logprobs, strict=True)))
        elif event.HasField("usage"):
            print(event.usage.completion_tokens, "tokens")
