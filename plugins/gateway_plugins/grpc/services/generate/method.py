"""The method `Generate`."""

import msgspec

from gateway_plugins.grpc.edge.answers import Answer, Asked
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services.generate.answer import GenerateAnswer
from gateway_plugins.grpc.services.generate.request import read
from gateway_plugins.grpc.services.names import SERVICE


class Generate(msgspec.Struct, frozen=True):
    """`Generate`. `default_model` stands in for a model that is not named."""

    messages: Messages
    default_model: str | None = None

    path = None

    @property
    def name(self) -> str:
        return f"/{SERVICE}/Generate"

    def read(self, message: bytes) -> Asked:
        return read(self.messages, message, self.default_model)

    def answer(self, started: float) -> Answer:
        return GenerateAnswer(self.messages, started)
