"""gRPC's reflection: only for callers with a key, in both versions, and not without end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services import reflection as module
from gateway_plugins.grpc.services.reflection import MAX_REQUESTS, VERSIONS, Reflection, method_of
from gateway_plugins.grpc.status import Code
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from support.grpc.in_process import KeptMessages
from support.grpc.stubs import channel, serving_grpc

from gateway.simulator import Simulator
from gateway.testing import GatewayFor

MESSAGES = Messages()
SERVICES = ["gateway.v1.GatewayService", "llm.v1.LlmService"]


class Asking(KeptMessages):
    """A Context with these requests; the last is repeated for ever unless `ends`."""

    def __init__(self, *requests: Any, ends: bool = True) -> None:
        super().__init__(method_of("v1"), requests[0])
        self._requests = [request.SerializeToString() for request in requests]
        self._ends = ends

    async def read(self) -> bytes | None:
        await asyncio.sleep(0)
        if not self._ends:
            return self.request
        return self._requests.pop(0) if self._requests else None


def ask(version: str = "v1", **fields: Any) -> Any:
    return MESSAGES.type(f"grpc.reflection.{version}.ServerReflectionRequest")(**fields)


def read(data: bytes, version: str = "v1") -> Any:
    return MESSAGES.type(f"grpc.reflection.{version}.ServerReflectionResponse").FromString(data)


async def test_files_and_services_are_told(gateway_for: GatewayFor) -> None:
    live = await gateway_for()
    context = Asking(
        ask(list_services=""),
        ask(file_containing_symbol="llm.v1.LlmService"),
        ask(file_by_filename="gateway/v1/gateway.proto"),
        ask(file_by_filename="no.proto"),
        ask(file_containing_symbol="no.such.Symbol"),
        ask(all_extension_numbers_of_type="llm.v1.LlmMetadata"),
    )
    status, sent = await Reflection(live.gateway, MESSAGES, "v1").serve(context)
    listed, symbol, name, *missing, extensions = (read(data) for data in context.sent)
    assert (status.code, sent) == (Code.OK, 6)
    assert {one.name for one in listed.list_services_response.service} >= {*SERVICES}
    [file] = symbol.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(file).package == "llm.v1"
    assert name.file_descriptor_response.file_descriptor_proto
    assert {one.error_response.error_code for one in missing} == {Code.NOT_FOUND}
    assert extensions.all_extension_numbers_response.base_type_name == "llm.v1.LlmMetadata"


async def test_requests_have_an_end(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await gateway_for()
    reflection = Reflection(live.gateway, MESSAGES, "v1")
    status, sent = await reflection.serve(Asking(ask(list_services=""), ends=False))
    assert (status.code, sent) == (Code.RESOURCE_EXHAUSTED, MAX_REQUESTS)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    status, sent = await reflection.serve(Asking(ask(list_services=""), ends=False))
    assert (status.code, sent) == (Code.RESOURCE_EXHAUSTED, 0)
    status, _ = await reflection.serve(Asking(ask(), ends=False))
    assert status.code is Code.RESOURCE_EXHAUSTED
    monkeypatch.undo()
    status, _ = await reflection.serve(Asking(ask()))
    assert status.code is Code.INVALID_ARGUMENT
    bad = Asking(ask(list_services=""), ends=False)
    bad.request = b"\xff"
    assert (await reflection.serve(bad))[0].code is Code.INVALID_ARGUMENT


def reflected(opened: grpc.Channel, version: str, *metadata: tuple[str, str]) -> list[str] | Any:
    """The names of all services, or how that failed."""
    asking = opened.stream_stream(method_of(version))
    sent = ask(version, list_services="").SerializeToString()
    try:
        [data] = asking(iter([sent]), metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return error.code()
    return sorted(one.name for one in read(data, version).list_services_response.service)


def checked(opened: grpc.Channel) -> grpc.StatusCode:
    """How a check of health without a key ends."""
    _, call = opened.unary_unary("/grpc.health.v1.Health/Check").with_call(b"", timeout=10)
    return call.code()


async def test_reflection_needs_a_key_and_health_does_not(
    simulator: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"id": "a", "token": "gw-a"}]}))
    file.chmod(0o600)
    auth = f"auth: {{keys_file: {file}}}"
    key = ("authorization", "Bearer gw-a")

    def look(port: int) -> None:
        with channel(port) as opened:
            for version in VERSIONS:
                assert reflected(opened, version) is grpc.StatusCode.UNAUTHENTICATED
                assert set(reflected(opened, version, key)) >= {*SERVICES}
            assert checked(opened) is grpc.StatusCode.OK

    async with serving_grpc(simulator.url, tmp_path, auth, options=["reflection: true"]) as (
        _,
        port,
    ):
        await asyncio.to_thread(look, port)
