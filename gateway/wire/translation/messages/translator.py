"""One Messages call as chat: the request, and the translator of its response."""

from gateway.wire.apis.anthropic_errors import refusal
from gateway.wire.translation import chat
from gateway.wire.translation.messages.answer import answer
from gateway.wire.translation.messages.request import (
    Habits,
    chat_request,
    count_request,
    read_request,
)
from gateway.wire.translation.messages.stream import PING, MessagesStream
from gateway.wire.translation.translation import Translation


class MessagesResponse(MessagesStream):
    """The ResponseTranslator of one Messages call."""

    __slots__ = ()

    def comment(self) -> bytes:
        return PING

    def answer(self, body: bytes) -> bytes:
        return answer(body)

    def refusal(self, status: int, body: bytes, call_id: str) -> bytes:
        return refusal(status, body, call_id)


def messages_as_chat(body: bytes, habits: Habits) -> Translation:
    """Translate the body of a Messages request. Raises Untranslatable."""
    asked = read_request(body)
    made = chat_request(asked, habits)
    response = MessagesResponse(keeps_arguments=bool(asked.stop_sequences))
    return Translation(chat.encode(made), response)


def messages_as_count(body: bytes, habits: Habits) -> bytes:
    """Return a request to count a prompt, for an engine's /tokenize. Raises Untranslatable."""
    made = count_request(body, habits)
    made.tool_choice = made.parallel_tool_calls = made.response_format = None
    return chat.encode(made)
