"""Run by a Python of other versions: `asking_grpc.py PORT MODEL PROTO ...`.

Makes stubs of each file PROTO, and asks with them as chat workers do; then asks the health and the
reflection of the library's own packages. Prints what came as JSON.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import google.protobuf
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_tools import protoc


def stubs_of(proto: Path, folder: str) -> tuple[Any, Any]:
    """Compile a file; return the modules of its messages and of its stubs."""
    sources = f"-I{proto.parent}", f"--python_out={folder}", f"--grpc_python_out={folder}"
    assert protoc.main(["protoc", *sources, str(proto)]) == 0
    sys.path.insert(0, folder)
    return importlib.import_module("llm_pb2"), importlib.import_module("llm_pb2_grpc")


def ask(channel: grpc.Channel, model: str, proto: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        messages, stubs = stubs_of(proto, folder)
    asked = messages.ChatCompletionRequest(
        model=model, user_prompt="Say something.", temperature=0.7, max_tokens=8, top_p=0.95
    )
    stub = stubs.LlmServiceStub(channel)
    title = stub.ChatCompletion(asked, timeout=20)
    *chunks, last = stub.ChatCompletionStream(asked, timeout=20)
    return {
        "title": title.output_text,
        "counts": [title.completion_tokens, last.completionTokens],
        "text": "".join(chunk.deltaText for chunk in chunks),
        "finish": [title.finish_reason, last.finishReason],
    }


def main(port: str, model: str, proto: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        found = ask(channel, model, Path(proto))
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="llm.v1.LlmService")
        found["health"] = health.Check(request, timeout=20).status
        found["watched"] = next(health.Watch(request, timeout=20)).status
        database = ProtoReflectionDescriptorDatabase(channel)
        found["services"] = list(database.get_services())
        found["file"] = database.FindFileContainingSymbol("llm.v1.LlmService").name
    found["versions"] = [grpc.__version__, google.protobuf.__version__]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
