"""From a request of `llm.v1` to the body of a chat."""

import math
from typing import Any, Literal

import msgspec

from gateway import BadRequest
from gateway_plugins.grpc.edge.answers import Asked
from gateway_plugins.grpc.edge.context import Meta
from gateway_plugins.grpc.messages import Messages

PATH = "/v1/chat/completions"

EmptySystem = Literal["leave_out", "send"]


class Mapping(msgspec.Struct, frozen=True):
    """How requests become chats. `default_model` stands in for a model that is not named.

    `empty_system`: whether an empty system prompt is sent as a message.
    """

    default_model: str | None = None
    empty_system: EmptySystem = "leave_out"


def read(messages: Messages, data: bytes, mapping: Mapping, *, streams: bool) -> Asked:
    """Parse a ChatCompletionRequest. Raises BadRequest."""
    request = messages.read("llm.v1.ChatCompletionRequest", data)
    meta = request.meta
    return Asked(
        PATH,
        lambda: body_of(request, mapping, streams=streams),
        Meta(meta.request_id, meta.trace_id, meta.session_id, meta.user_id),
    )


def body_of(request: Any, mapping: Mapping, *, streams: bool) -> bytes:
    """Return the body of the chat. Raises BadRequest."""
    model = request.model or mapping.default_model
    if not model:
        raise BadRequest("no model is named, and the gateway has no default_model", param="model")
    body: dict[str, object] = {"model": model, "messages": _messages(request, mapping)}
    body |= _sampling(request)
    if streams:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(body)


def _messages(request: Any, mapping: Mapping) -> list[dict[str, str]]:
    user = request.user_prompt
    if request.context:
        user = f"{user}\n\nContext:\n{request.context}"
    told = [{"role": "user", "content": user}]
    if request.system_prompt or mapping.empty_system == "send":
        told.insert(0, {"role": "system", "content": request.system_prompt})
    return told


def _sampling(request: Any) -> dict[str, object]:
    """Return the parameters that are set: stubs of old cannot send a zero, so it counts as unset.

    New stubs have presence, and then a zero is sent on.
    """
    found: dict[str, object] = {}
    for name in ("temperature", "max_tokens", "top_p"):
        if request.HasField(name):
            value = found[name] = getattr(request, name)
            if not math.isfinite(value):
                raise BadRequest(f"{name} is no number", param=name)
    if request.max_tokens < 0:
        raise BadRequest("max_tokens is negative", param="max_tokens")
    return found
