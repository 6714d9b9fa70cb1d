"""Responses carried to the engine's own Responses, with the tokens for who records it.

vLLM tells the tokens of a response at its end if `enable_response_messages` is set. The caller gets
its response without them, and the last event once the call is recorded.
"""

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.wire import sse
from gateway.wire.translation.responses.request.request import read
from gateway.wire.translation.translation import Translation, Unreadable, Untranslatable

PATH = "/v1/responses"

_ENDS = (b"response.completed", b"response.incomplete", b"response.failed")
_TOKENS = ("input_messages", "output_messages")
_NULL = Raw(b"null")

_Fields = dict[str, Raw]


class _Type(msgspec.Struct):
    type: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Fields).decode
_decode_type = msgspec.json.Decoder(_Type).decode


class OwnResponse:
    """Passes a response on, without its tokens; see translation.ResponseTranslator."""

    __slots__ = ("_last",)

    failure = None

    def __init__(self) -> None:
        self._last = b""

    def event(self, data: bytes) -> bytes:
        """Return the event as it came; the last one is held back."""
        try:
            kind = _decode_type(data).type.encode()
        except NOT_JSON:
            return sse.encode(data)
        if kind not in _ENDS:
            return sse.encode(data, kind.decode())
        self._last = sse.encode(_event_without_tokens(data), kind.decode())
        return b""

    def comment(self) -> bytes:
        return b": keep-alive\n\n"

    def end(self, *, done: bool) -> bytes:
        return self._last

    def answer(self, body: bytes) -> bytes:
        try:
            return _encode(_without_tokens(_decode(body)))
        except NOT_JSON as error:
            raise Unreadable(f"it is no response: {error}") from None

    def refusal(self, status: int, body: bytes, call_id: str) -> bytes:
        return body


def own_responses(body: bytes) -> Translation:
    """Return the call with the same request, which asks for the tokens too.

    Raises Untranslatable if the engine does not tell them: of a response in the background.
    """
    request = read(body)
    if request.background or request.enable_response_messages:
        raise Untranslatable("the tokens of this response cannot be asked for")
    try:
        fields = {**_decode(body), "enable_response_messages": Raw(b"true")}
    except NOT_JSON as error:  # half a surrogate pair, which engines take
        raise Untranslatable(f"its fields cannot be read: {error}") from None
    return Translation(_encode(fields), OwnResponse(), PATH)


def _event_without_tokens(data: bytes) -> bytes:
    try:
        fields = _decode(data)
        response = _without_tokens(_decode(fields["response"]))
    except (*NOT_JSON, KeyError):
        return data
    return _encode({**fields, "response": Raw(_encode(response))})


def _without_tokens(response: _Fields) -> _Fields:
    return {key: _NULL if key in _TOKENS else value for key, value in response.items()}
