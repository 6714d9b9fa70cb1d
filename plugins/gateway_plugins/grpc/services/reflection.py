"""gRPC's reflection protocol, v1 and v1alpha: which services there are, and their descriptors."""

import asyncio
from typing import Any

from gateway import BadRequest, CallerGone, CallError, Host
from gateway_plugins.grpc.edge.context import Context
from gateway_plugins.grpc.edge.identifying import caller_of, identify
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import Code, Status, of_error

VERSIONS = ("v1", "v1alpha")

MAX_REQUESTS = 1_000
"""Requests of one RPC, which is a stream of them."""

PATIENCE = 60.0
"""Seconds that the next one may take."""

MAX_STREAMS = 100
"""RPCs that run at a time."""


OK = Status(Code.OK)
LEFT = Status(Code.CANCELLED, "the caller left", "caller_gone")


def _exhausted(message: str) -> Status:
    return Status(Code.RESOURCE_EXHAUSTED, message, "too_many_calls")


def method_of(version: str) -> str:
    """Return the name of the protocol's only method."""
    return f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"


class Reflection:
    """Answers the requests of one version of the protocol."""

    def __init__(self, host: Host, messages: Messages, version: str) -> None:
        self._host = host
        self._messages = messages
        self._running = 0
        self._package = f"grpc.reflection.{version}"

    async def serve(self, context: Context) -> tuple[Status, int]:
        """Serve one RPC; return how it ended, and after how many messages."""
        self._running += 1
        try:
            await identify(self._host, caller_of(context))
            if self._running > MAX_STREAMS:
                return _exhausted("too many callers use reflection"), 0
            return await self._answer_all(context)
        except CallError as error:
            return of_error(error, {}), 0
        except (CallerGone, asyncio.CancelledError):
            return LEFT, 0
        finally:
            self._running -= 1

    async def _answer_all(self, context: Context) -> tuple[Status, int]:
        for sent in range(MAX_REQUESTS):
            try:
                async with asyncio.timeout(PATIENCE):
                    message = await context.read()
            except TimeoutError:
                return _exhausted(f"no request came for {PATIENCE} s"), sent
            if message is None:
                return OK, sent
            await context.send(self.answer(message))
        return _exhausted(f"an RPC may have {MAX_REQUESTS} requests"), MAX_REQUESTS

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
