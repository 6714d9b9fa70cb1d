"""The two methods of `llm.v1`."""

import msgspec

from gateway_plugins.grpc.edge.answers import Answer, Asked
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services.llm.answer import ChatAnswer
from gateway_plugins.grpc.services.llm.request import PATH, Mapping, read

SERVICE = "llm.v1.LlmService"


class Chat(msgspec.Struct, frozen=True):
    """`ChatCompletion` or, if it `streams`, `ChatCompletionStream`."""

    messages: Messages
    mapping: Mapping
    streams: bool

    @property
    def path(self) -> str:
        return PATH

    @property
    def name(self) -> str:
        return f"/{SERVICE}/ChatCompletion" + ("Stream" if self.streams else "")

    def read(self, message: bytes) -> Asked:
        return read(self.messages, message, self.mapping, streams=self.streams)

    def answer(self, started: float) -> Answer:
        return ChatAnswer(self.messages, started, streams=self.streams)
