"""From a GenerateRequest to the body of a chat or of a completion."""

from typing import Any

import msgspec

from gateway import BadRequest
from gateway_plugins.grpc.edge.answers import Asked
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services.generate import asking
from gateway_plugins.grpc.services.generate.messages import chat_messages
from gateway_plugins.grpc.services.names import meta_of

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

OF_CHATS = ("tools", "tool_choice", "parallel_tool_calls")


class Wanted(msgspec.Struct, frozen=True):
    """What the events of a response may have; the numbers have to be there if they are wanted.

    `top` is how many of the likeliest tokens are wanted for each sampled one, `choices` how many
    choices the response has at least.
    """

    text: bool = True
    reasoning: bool = True
    token_ids: bool = False
    prompt_token_ids: bool = False
    logprobs: bool = False
    prompt_logprobs: int | None = None
    top: int = 0
    choices: int = 1


class Generation(Asked, frozen=True):
    """What a GenerateRequest asks for."""

    wanted: Wanted = Wanted()


def read(messages: Messages, data: bytes, default_model: str | None) -> Generation:
    """Parse a GenerateRequest. Raises BadRequest."""
    request = messages.read("gateway.v1.GenerateRequest", data)
    wanted = _wanted(request)
    body = msgspec.json.encode(_body(request, wanted, default_model))
    path = CHAT if request.WhichOneof("input") == "messages" else COMPLETIONS
    return Generation(path, lambda: body, meta_of(request.meta), wanted=wanted)


def _wanted(request: Any) -> Wanted:
    returned, logprobs = request.returned, request.logprobs
    return Wanted(
        text=returned.text or not returned.HasField("text"),
        reasoning=returned.reasoning or not returned.HasField("reasoning"),
        token_ids=returned.token_ids,
        prompt_token_ids=returned.prompt_token_ids,
        logprobs=logprobs.sampled or logprobs.top > 0,
        prompt_logprobs=logprobs.prompt if logprobs.HasField("prompt") else None,
        top=logprobs.top,
        choices=max(request.sampling.n, 1),
    )


def _body(request: Any, wanted: Wanted, default_model: str | None) -> dict[str, object]:
    model = request.lora or request.model or default_model
    if not model:
        raise BadRequest("no model is named, and the gateway has no default_model", param="model")
    body = {"model": model} | _input(request) | asking.sampling(request) | asking.tools(request)
    chats = "messages" in body
    for name in OF_CHATS if not chats else ():
        if name in body:
            raise BadRequest(f"{name} needs messages: a prompt has no tools", param=name)
    body |= asking.structured(request) | asking.logprobs(request, chats=chats)
    if wanted.token_ids or wanted.prompt_token_ids:
        body["return_token_ids"] = True
    if request.HasField("priority"):
        body["priority"] = request.priority
    if wanted.prompt_logprobs is None:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return {**body, **asking.extra(request)}


def _input(request: Any) -> dict[str, object]:
    match request.WhichOneof("input"):
        case "messages":
            return {"messages": chat_messages(request.messages)}
        case "prompt":
            return {"prompt": request.prompt}
        case "prompt_token_ids":
            if not request.prompt_token_ids.ids:
                raise BadRequest("prompt_token_ids has none", param="prompt_token_ids")
            return {"prompt": list(request.prompt_token_ids.ids)}
    raise BadRequest("there are no messages, and no prompt", param="input")
