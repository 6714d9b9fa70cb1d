"""gRPC's reflection protocol, v1 and v1alpha: which services there are, and their descriptors."""

from typing import Any

from gateway import BadRequest
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import Code

VERSIONS = ("v1", "v1alpha")


def method_of(version: str) -> str:
    """Return the name of the protocol's only method."""
    return f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"


class Reflection:
    """Answers the requests of one version of the protocol."""

    def __init__(self, messages: Messages, version: str) -> None:
        self._messages = messages
        self._package = f"grpc.reflection.{version}"

    def answer(self, message: bytes) -> bytes:
        """Answer one request. Raises BadRequest."""
        request = self._messages.read(f"{self._package}.ServerReflectionRequest", message)
        response = self._messages.type(f"{self._package}.ServerReflectionResponse")()
        response.valid_host = request.host
        response.original_request.CopyFrom(request)
        try:
            self._fill(request, response)
        except KeyError:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = "there is no such symbol or file"
        data: bytes = response.SerializeToString()
        return data

    def _fill(self, request: Any, response: Any) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in sorted(self._messages.services):
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._add(response, request.file_by_filename)
            case "file_containing_symbol":
                self._add(response, self._messages.file_of(request.file_containing_symbol))
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                self._messages.file_of(name)
                response.all_extension_numbers_response.base_type_name = name
            case "file_containing_extension":
                raise KeyError
            case _:
                raise BadRequest("the request asks for nothing")

    def _add(self, response: Any, file: str) -> None:
        found = self._messages.with_imports(file)
        response.file_descriptor_response.file_descriptor_proto.extend(found)
