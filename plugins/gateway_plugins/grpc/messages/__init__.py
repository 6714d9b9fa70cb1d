"""The messages of all services, from a shipped set of descriptors: no generated code.

Generated code demands a range of versions of protobuf, and other packages of the same environment
demand others. The pool is private: the default one refuses a second file of the same name, and an
embedder, or a caller in the same process, may well have its own file `llm`.
"""

from functools import cached_property
from importlib.resources import files
from typing import Any

import msgspec
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from gateway import BadRequest

DESCRIPTORS = "descriptors.binpb"


class Signature(msgspec.Struct, frozen=True):
    """The full names of a method's messages. `streams`: it has any number of responses."""

    request: str
    response: str
    streams: bool


class Messages:
    """The classes of messages by their full names, and the files that describe them."""

    def __init__(self) -> None:
        found = FileDescriptorSet.FromString((files(__package__) / DESCRIPTORS).read_bytes())
        self._pool: Any = DescriptorPool()
        for file in found.file:
            self._pool.Add(file)
        self._files = {file.name: file for file in found.file}
        self._classes: dict[str, Any] = {}

    def type(self, name: str) -> Any:
        """Return the class of a message. Raises KeyError if there is none."""
        made = self._classes.get(name)
        if made is None:
            made = self._classes[name] = GetMessageClass(self._pool.FindMessageTypeByName(name))
        return made

    def read(self, name: str, data: bytes) -> Any:
        """Parse a message. Raises BadRequest."""
        try:
            return self.type(name).FromString(data)
        except DecodeError:
            raise BadRequest(f"the request is not a valid {name}") from None

    def signature(self, path: str) -> Signature:
        """Return that of the method `/package.Service/Method`. Raises KeyError."""
        service, _, name = path[1:].partition("/")
        found = self._pool.FindServiceByName(service).methods_by_name[name]
        request, response = found.input_type.full_name, found.output_type.full_name
        return Signature(request, response, found.server_streaming)

    @cached_property
    def services(self) -> dict[str, str]:
        """The name of the file of each service, by the service's full name."""
        return {
            f"{file.package}.{service.name}": file.name
            for file in self._files.values()
            for service in file.service
        }

    def file_of(self, symbol: str) -> str:
        """Return the name of the file that has `symbol`. Raises KeyError."""
        name: str = self._pool.FindFileContainingSymbol(symbol).name
        return name

    def with_imports(self, name: str) -> list[bytes]:
        """Return the descriptors of a file and of all that it imports. Raises KeyError."""
        wanted, seen = [name], dict[str, bytes]()
        while wanted:
            one = self._files[wanted.pop()]
            if one.name not in seen:
                seen[one.name] = one.SerializeToString()
                wanted.extend(one.dependency)
        return list(seen.values())
