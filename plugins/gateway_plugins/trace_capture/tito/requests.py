"""Requests to the engine: which chats generate can take, and the request to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway import is_true
from gateway_plugins.trace_capture.tito.engine import Rendered, encoded

GENERATE = "/inference/v1/generate"

MAX_TOKENS = ("max_completion_tokens", "max_tokens")
"""In the order in which the engine reads them."""

UNFIT = (
    "echo",
    "use_beam_search",
    "prompt_logprobs",
    "return_tokens_as_token_ids",
    "continue_final_message",
    "truncate_prompt_tokens",
)
"""Fields of a chat that generate does not have, or that would change the ids of a turn."""


def unfit(request: Mapping[str, Any]) -> str | None:
    """Return why a chat cannot be carried as generate; None if it can."""
    if not isinstance(request.get("messages"), list) or not request["messages"]:
        return "it has no messages"
    for name in UNFIT:
        if request.get(name) not in (None, False):
            return f"generate has no `{name}`"
    if request.get("add_generation_prompt") is False:
        return "its prompt does not begin an answer"
    if request.get("include_reasoning") is False:
        return "it leaves the reasoning out"
    return None


def generate_body(request: Mapping[str, Any], rendered: Rendered, prompt: Sequence[int]) -> bytes:
    """Return the request to generate that has this `prompt`, and all else as it was rendered."""
    fields = {name: value for name, value in rendered.fields.items() if value is not None}
    fields["token_ids"] = list(prompt)
    fields["output_mode"] = "text"
    fields.pop("request_id", None)  # the header of the call names it
    fields["sampling_params"] = _sampling(request, rendered, len(prompt))
    return encoded(fields)


def _sampling(request: Mapping[str, Any], rendered: Rendered, length: int) -> dict[str, Any]:
    """Return the sampling parameters: what the context leaves depends on the prompt's length."""
    params = dict(rendered.fields.get("sampling_params") or {})
    longest = params.get("max_tokens")
    given = (request.get(name) for name in MAX_TOKENS)
    asked = next((value for value in given if value is not None), None)
    if isinstance(longest, int) and longest != asked:
        params["max_tokens"] = max(longest + len(rendered.token_ids) - length, 1)
    return params


def top_logprobs(request: Mapping[str, Any]) -> int | None:
    """Return how many alternatives of each token the caller wants; None: no logprobs at all."""
    if not is_true(request.get("logprobs")):
        return None
    count = request.get("top_logprobs")
    return count if isinstance(count, int) else 0


def is_parsed(request: Mapping[str, Any], rendered: Rendered) -> bool:
    """Whether the engine makes more of an answer than its text: reasoning, or tool calls."""
    tools = request.get("tools") and request.get("tool_choice") != "none"
    return bool(tools) or rendered.parses_reasoning


def must_call(request: Mapping[str, Any]) -> bool:
    """Whether the answer is a tool call from its first token on."""
    return request.get("tool_choice") not in (None, "auto", "none")
