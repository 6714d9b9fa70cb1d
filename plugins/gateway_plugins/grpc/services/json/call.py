"""The method `Call`: any request that the gateway carries, and its response, byte for byte."""

import re

import msgspec

from gateway import BadRequest, Host
from gateway_plugins.grpc.edge.answers import Answer, Asked, Begun
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services.names import SERVICE, meta_of

TARGET = re.compile(r"/[!-~]{0,4095}")
"""A path and perhaps a query: a longer one, or one with other characters, is refused."""


class JsonCall(msgspec.Struct, frozen=True):
    """`Call`."""

    messages: Messages
    host: Host

    path = None

    @property
    def name(self) -> str:
        return f"/{SERVICE}/Call"

    def read(self, message: bytes) -> Asked:
        """Parse a JsonRequest. Raises BadRequest, NotFound."""
        request = self.messages.read("gateway.v1.JsonRequest", message)
        body: bytes = request.body
        if not TARGET.fullmatch(request.path) or "#" in request.path:
            raise BadRequest("path must be one such as /v1/chat/completions", param="path")
        path, _, query = request.path.partition("?")
        method = "POST" if body else "GET"
        scope = self.host.scope_of(method, path)
        return Asked(path, lambda: body, meta_of(request.meta), method, query.encode(), scope)

    def answer(self, started: float) -> Answer:
        return JsonAnswer(self.messages)


class JsonAnswer:
    """Passes on the data of each event, or a plain response, as one message.

    The response is not read, so its tokens are not known here.
    """

    finish_reason = ""
    prompt_tokens = completion_tokens = None

    def __init__(self, messages: Messages) -> None:
        self._chunk = messages.type("gateway.v1.JsonChunk")
        self._events: list[bytes] = []
        self._body = b""

    def expect(self, asked: Asked) -> None: ...

    def begin(self, begun: Begun) -> None: ...

    def comment(self) -> None: ...

    def event(self, data: bytes) -> None:
        self._events.append(data)

    def plain(self, body: bytes) -> None:
        self._body = body

    def take(self) -> list[bytes]:
        events, self._events = self._events, []
        return [self._chunk(json=data).SerializeToString() for data in events]

    def finish(self) -> list[bytes]:
        return [self._chunk(json=self._body, done=True).SerializeToString()]
