"""The method `ListModels`: what `GET /v1/models` says to the caller."""

import msgspec

from gateway import NOT_JSON
from gateway_plugins.grpc.edge.answers import Answer, Asked, BadAnswer, Begun
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services.names import SERVICE

PATH = "/v1/models"


class Card(msgspec.Struct):
    id: str


class Listing(msgspec.Struct):
    data: list[msgspec.Raw]


class ListModels(msgspec.Struct, frozen=True):
    """`ListModels`."""

    messages: Messages

    path = None

    @property
    def name(self) -> str:
        return f"/{SERVICE}/ListModels"

    def read(self, message: bytes) -> Asked:
        """Parse a ListModelsRequest. Raises BadRequest."""
        self.messages.read("gateway.v1.ListModelsRequest", message)
        return Asked(PATH, bytes, method="GET")

    def answer(self, started: float) -> Answer:
        return ModelsAnswer(self.messages)


class ModelsAnswer:
    """Makes a ListModelsResponse of the response of `/v1/models`."""

    finish_reason = ""
    prompt_tokens = completion_tokens = None

    def __init__(self, messages: Messages) -> None:
        self._response = messages.type("gateway.v1.ListModelsResponse")()

    def expect(self, asked: Asked) -> None: ...

    def begin(self, begun: Begun) -> None: ...

    def comment(self) -> None: ...

    def event(self, data: bytes) -> None:
        raise BadAnswer("the worker's list of models is an event stream")

    def plain(self, body: bytes) -> None:
        try:
            body.decode()  # strings that are skipped are not checked
            for card in msgspec.json.decode(body, type=Listing).data:
                model = msgspec.json.decode(card, type=Card)
                self._response.models.add(id=model.id, json=bytes(card))
        except NOT_JSON:
            raise BadAnswer("the worker's response is not a list of models") from None

    def take(self) -> list[bytes]:
        return []

    def finish(self) -> list[bytes]:
        return [self._response.SerializeToString()]
