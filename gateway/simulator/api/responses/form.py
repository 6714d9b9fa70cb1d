"""The response object as the engine writes it: OpenAI's newer fields are missing."""

import msgspec
from msgspec import Raw

from gateway.simulator.engine.tokens import Detokenizer, decode
from gateway.wire.translation.responses.structs import Format, Request, Text

Fields = dict[str, Raw]

_LEFT_OUT = frozenset(
    {
        "completed_at",
        "error",
        "conversation",
        "prompt_cache_key",
        "safety_identifier",
        "store",
    }
)
_NULL = Raw(b"null")
_ENDED = (Raw(b'"completed"'), Raw(b'"incomplete"'))

encode = msgspec.json.Encoder().encode
decode_fields = msgspec.json.Decoder(Fields).decode


class RawMessage(msgspec.Struct):
    """All tokens of one side of a call, with `enable_response_messages`."""

    message: str
    tokens: list[int]
    type: str = "raw_message_tokens"


class Form:
    """Makes the engine's objects of one call. `prompt` are its token ids, `room` the tokens left.

    `sampled` gets the ids of the answer before its last object is made.
    """

    def __init__(self, request: Request, prompt: list[int], room: int) -> None:
        self.sampled: list[int] = []
        self._prompt = prompt
        self._with_messages = request.enable_response_messages
        self._instead: Fields = {}
        if request.metadata is None:
            self._instead["metadata"] = _NULL
        if request.text is None:
            self._instead["text"] = _NULL
        elif request.text.format is not None and request.text.format.type == "json_schema":
            self._instead["text"] = _schema_text(request.text, request.text.format)
        if not request.wants_logprobs:
            self._instead["top_logprobs"] = _NULL
        if request.max_output_tokens is None:
            self._instead["max_output_tokens"] = _raw(room)

    def object_of(self, response: bytes) -> Fields:
        """Return the engine's object for the translator's."""
        given = decode_fields(response)
        made = {
            name: self._instead.get(name, value)
            for name, value in given.items()
            if name not in _LEFT_OUT
        }
        if self._with_messages and made["status"] in _ENDED:
            made["input_messages"] = _raw([RawMessage(decode(self._prompt), self._prompt)])
            made["output_messages"] = _raw([RawMessage(_text(self.sampled), self.sampled)])
        return made


def _schema_text(text: Text, format_: Format) -> Raw:
    named: dict[str, object] = {
        "name": format_.name,
        "schema": format_.schema,
        "type": format_.type,
    }
    named |= {"description": format_.description, "strict": format_.strict}
    return _raw({"format": named, "verbosity": text.verbosity})


def _raw(value: object) -> Raw:
    return Raw(encode(value))


def _text(ids: list[int]) -> str:
    detokenizer = Detokenizer()
    return "".join(map(detokenizer.add, ids))
