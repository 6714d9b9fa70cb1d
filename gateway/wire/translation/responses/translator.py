"""A call of Responses carried as chat, and its way back."""

from collections.abc import Sequence

import msgspec

from gateway.wire.translation import chat
from gateway.wire.translation.responses import errors
from gateway.wire.translation.responses.request.request import as_chat, read
from gateway.wire.translation.responses.request.tools import Toolbox, toolbox
from gateway.wire.translation.responses.response.answer import complete
from gateway.wire.translation.responses.response.response_object import Response, begun
from gateway.wire.translation.responses.response.stream import EventStream
from gateway.wire.translation.responses.structs import Item, Request
from gateway.wire.translation.translation import Translation, Untranslatable

COMMENT = b": keep-alive\n\n"


class ResponsesTranslator:
    """Makes one response of Responses; see translation.ResponseTranslator.

    `response` is the object of the response: as it begins, and as it ended.
    """

    __slots__ = ("_box", "_sealed", "_stream", "response")

    def __init__(self, request: Request, box: Toolbox, *, stored: bool = False) -> None:
        self.response: Response = begun(request, box, stored=stored)
        self._box = box
        self._sealed = request.wants_sealed_reasoning
        self._stream = EventStream(self.response, box, sealed=self._sealed)

    @property
    def failure(self) -> str | None:
        return self._stream.failure

    def event(self, data: bytes) -> bytes:
        return self._stream.event(data)

    def comment(self) -> bytes:
        return COMMENT

    def end(self, *, done: bool) -> bytes:
        return self._stream.end(done=done)

    def answer(self, body: bytes) -> bytes:
        complete(self.response, body, self._box, sealed=self._sealed)
        return msgspec.json.encode(self.response)

    def failed(self, error: bytes) -> bytes:
        """Return the last events of a stream that was given up; `error` is JSON.

        Of a plain response, `response` then is one that failed.
        """
        return b"" if self._stream.ended else self._stream.failed(error)

    def cancelled(self) -> bytes:
        """Return the last events of a stream that was cancelled; `response` says so, too."""
        return self._stream.cancelled()

    def refusal(self, status: int, body: bytes, call_id: str) -> bytes:
        return errors.refusal(body)


def responses_as_chat(body: bytes) -> Translation:
    """Return the call of Responses with `body` as one of chat. Raises Untranslatable.

    A request that refers to what a server keeps is left to that server.
    """
    request = read(body)
    if request.previous_response_id or request.conversation or request.background:
        raise Untranslatable("it refers to a response or a conversation that a server keeps")
    return carry(request)


def carry(request: Request, history: Sequence[Item] = (), *, stored: bool = False) -> Translation:
    """Return `request` as chat; `history` are the items before its input.

    `stored`: the response is kept. Raises Untranslatable.
    """
    box = toolbox(request.tools)
    body = chat.encode(as_chat(request, box, history))
    return Translation(body, ResponsesTranslator(request, box, stored=stored))
