"""Stubs as callers have them, made at test time, and a gateway in a process of its own."""

import contextlib
import importlib.util
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from grpc_tools import protoc
from support.gateways.serving_process import Process, serving
from support.paths import ROOT

PROTOS = ROOT / "plugins/gateway_plugins/grpc/messages/protos"

PORT = re.compile(rb'"addr":"127\.0\.0\.1:(\d+)"')


def make_stubs(proto: Path, folder: Path) -> tuple[ModuleType, ModuleType]:
    """Compile a file of messages into `folder`; return the modules of messages and of stubs."""
    arguments = [f"-I{proto.parent}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main(["protoc", *arguments, str(proto)]) == 0
    name = proto.stem
    messages = _module(f"{name}_pb2", folder / f"{name}_pb2.py")
    return messages, _module(f"{name}_pb2_grpc", folder / f"{name}_pb2_grpc.py")


def as_of_old(folder: Path) -> Path:
    """Write the interface as the old server has it: without `optional`. Return its path."""
    text = (PROTOS / "llm.proto").read_text(encoding="utf-8")
    old = folder / "llm.proto"
    old.write_text(text.replace("  optional ", "  "), encoding="utf-8")
    return old


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the stubs import the messages by this name
    spec.loader.exec_module(module)
    return module


@contextlib.asynccontextmanager
async def serving_grpc(
    worker: str, folder: Path, *plugins: str, options: Sequence[str] = (), **settings: str
) -> AsyncIterator[tuple[Process, int]]:
    """`gateway serve` with the plugin `grpc`; yields the process and the port of gRPC.

    `plugins` are lines of YAML that stand before it, `options` those of the plugin itself,
    `settings` as `serving` takes them.
    """
    own = ", ".join(("port: 0", *options))
    lines = [*(f"  - {line}" for line in plugins), f"  - grpc: {{{own}}}"]
    file = folder / "gateway.yaml"
    file.write_text("storage: {path: ':memory:'}\nplugins:\n" + "\n".join(lines) + "\n")
    async with serving(worker, "--config", str(file), **settings) as process:
        yield process, int(PORT.search(process.log)[1])  # type: ignore[index]


def channel(port: int, **options: Any) -> grpc.Channel:
    """Return a channel of threads: a second event loop in this process would disturb the first."""
    arguments = [(f"grpc.{name}", value) for name, value in options.items()]
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=arguments)
