"""The parts of a body that are about tools, structure, logprobs and ids.

Each function returns members of the body of a request, as OpenAI and vLLM read them, and raises
BadRequest.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway import BadRequest
from gateway_plugins.grpc.services.generate.values import finite, given, json_object, parsed

NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "max_tokens",
    "min_tokens",
    "seed",
    "ignore_eos",
    "n",
)

CHOICES = ("auto", "none", "required")

Members = dict[str, object]


def sampling(request: Any) -> Members:
    """Return the parameters of sampling that are set."""
    asked, found = request.sampling, Members()
    for name in NUMBERS:
        if asked.HasField(name):
            found[name] = finite(getattr(asked, name), f"sampling.{name}")
    if found.get("n") == 0:
        raise BadRequest("sampling.n is 0", param="sampling.n")
    for name in ("stop", "stop_token_ids"):
        if values := getattr(asked, name):
            found[name] = list(values)
    if asked.logit_bias:
        found["logit_bias"] = {
            str(token): finite(bias, "sampling.logit_bias")
            for token, bias in asked.logit_bias.items()
        }
    return found


def tools(request: Any) -> Members:
    """Return the tools, and which of them the model may call."""
    found = Members()
    if request.tools:
        found["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)]
    if choice := request.tool_choice:
        named = {"type": "function", "function": {"name": choice}}
        found["tool_choice"] = choice if choice in CHOICES else named
    if request.HasField("parallel_tool_calls"):
        found["parallel_tool_calls"] = request.parallel_tool_calls
    return found


def _tool(tool: Any, field: str) -> Members:
    function: Members = {"name": given(tool.name, f"{field}.name")}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = json_object(tool.parameters, f"{field}.parameters")
    if tool.HasField("strict"):
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def structured(request: Any) -> Members:
    """Return what the output has to look like: in OpenAI's form, or else in vLLM's."""
    match request.WhichOneof("structured"):
        case "json_schema":
            schema = json_object(request.json_schema, "json_schema")
            named = {"name": "schema", "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case "json_object":
            return {"response_format": {"type": "json_object"}} if request.json_object else {}
        case "structural_tag":
            return {"response_format": _structural_tag(request.structural_tag)}
        case "choices":
            if not request.choices.choices:
                raise BadRequest("choices has none", param="choices")
            return {"structured_outputs": {"choice": list(request.choices.choices)}}
        case "regex" | "grammar" as name:
            return {"structured_outputs": {name: given(getattr(request, name), name)}}
    return {}


def _structural_tag(data: bytes) -> msgspec.Raw:
    tag = parsed(data, "structural_tag")
    if not isinstance(tag, dict) or tag.get("type") != "structural_tag":
        message = 'structural_tag is not an object with "type": "structural_tag"'
        raise BadRequest(message, param="structural_tag")
    return msgspec.Raw(data)


def logprobs(request: Any, *, chats: bool) -> Members:
    """Return which logprobs the response has to have."""
    asked, found = request.logprobs, Members()
    if asked.sampled or asked.top:
        found["logprobs"] = True if chats else asked.top
    if chats and asked.top:
        found["top_logprobs"] = asked.top
    if asked.HasField("prompt"):
        found["prompt_logprobs"] = asked.prompt
    return found


def extra(request: Any) -> Mapping[str, object]:
    """Return the members of `extra`, byte for byte."""
    if not request.extra:
        return {}
    json_object(request.extra, "extra")
    return msgspec.json.decode(request.extra, type=dict[str, msgspec.Raw])
