"""Messages as JSON: protobuf's own mapping, https://protobuf.dev/programming-guides/json."""

from google.protobuf import json_format

from gateway import BadRequest
from gateway_plugins.grpc.messages import Messages


def from_json(messages: Messages, name: str, text: bytes) -> bytes:
    """Return the bytes of a message. Raises BadRequest.

    Unknown fields are ignored, as in protobuf's own encoding and in Connect's other servers.
    """
    message = messages.type(name)()
    try:
        json_format.Parse(text or b"{}", message, ignore_unknown_fields=True)
        data: bytes = message.SerializeToString()
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise BadRequest(f"the request is not a {name} in JSON: {error}"[:300]) from None
    return data


def to_json(messages: Messages, name: str, data: bytes) -> bytes:
    """Return a message of ours as JSON, in one line."""
    message = messages.type(name).FromString(data)
    text: str = json_format.MessageToJson(message, indent=None, ensure_ascii=False)
    return text.encode()
