"""The interface stays as it is: what callers have compiled works with each later gateway."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from support.grpc.stubs import PROTOS
from support.paths import SUPPORT

SHIPPED = PROTOS.parent / "descriptors.binpb"
PINNED = SUPPORT / "data" / "grpc-interface.txt"
"""Names, numbers and types of all fields so far. Lines are only ever added."""

OURS = ("llm.v1", "gateway.v1")


def test_the_shipped_descriptors_are_those_of_the_protos(tmp_path: Path) -> None:
    made = tmp_path / "made.binpb"
    shipped = FileDescriptorSet.FromString(SHIPPED.read_bytes())
    names = [file.name for file in shipped.file if (PROTOS / file.name).exists()]
    own = Path(protoc.__file__).parent / "_proto"
    arguments = [f"-I{PROTOS}", f"-I{own}", f"--descriptor_set_out={made}", *names]
    assert protoc.main(["protoc", *arguments]) == 0
    found = {file.name: file for file in FileDescriptorSet.FromString(made.read_bytes()).file}
    assert found == {file.name: file for file in shipped.file if file.name in names}
    assert set(names) >= {"llm.proto", "gateway/v1/gateway.proto"}


def test_no_field_that_callers_know_has_changed() -> None:
    shipped = FileDescriptorSet.FromString(SHIPPED.read_bytes())
    lines = [line for file in shipped.file if file.package in OURS for line in interface(file)]
    pinned = PINNED.read_text(encoding="utf-8").splitlines()
    gone = sorted(set(pinned) - set(lines))
    assert not gone, f"callers have compiled these, so they must stay: {gone}"
    new = sorted(set(lines) - set(pinned))
    assert not new, f"add these lines to {PINNED.name}: {new}"


def interface(file: Any) -> Iterator[str]:
    """What callers have compiled, one line for each part of it."""
    for service in file.service:
        for method in service.method:
            streams = "stream " if method.server_streaming else ""
            types = f"{method.input_type} -> {streams}{method.output_type}"
            yield f"{file.package}.{service.name}/{method.name} {types}"
    for enum in file.enum_type:
        for value in enum.value:
            yield f"{file.package}.{enum.name}.{value.name} = {value.number}"
    for message in file.message_type:
        for field in message.field:
            name = f"{file.package}.{message.name}.{field.name}"
            yield f"{name} = {field.number} {kind(message, field)}"


def kind(message: Any, field: Any) -> str:
    label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
    name = field.type_name or FieldDescriptorProto.Type.Name(field.type).lower()
    oneof = ""
    if field.proto3_optional:
        label = "present"
    elif field.HasField("oneof_index"):
        oneof = f" of {message.oneof_decl[field.oneof_index].name}"
    return f"{label} {name}{oneof}"
