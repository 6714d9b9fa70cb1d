"""Which requests can be carried on with the same result, and why others cannot."""

from collections.abc import Mapping
from typing import Any

from gateway import is_true

APIS = frozenset({"chat", "completions", "generate"})
"""Names of the APIs whose streams can be carried on."""

COUNTS_BEFORE = "what was sampled before would count as the prompt"

NOT_IF_SET = {
    "stop": "a stop string may begin in what was sampled before",
    "bad_words": "a bad word may begin in what was sampled before",
    "presence_penalty": COUNTS_BEFORE,
    "frequency_penalty": COUNTS_BEFORE,
    "structured_outputs": "the next worker would begin the structure anew",
    "json_schema": "the next worker would begin the structure anew",
    "regex": "the next worker would begin the structure anew",
    "ebnf": "the next worker would begin the structure anew",
    "thinking_token_budget": COUNTS_BEFORE,
    "logits_processors": COUNTS_BEFORE,
    "vllm_xargs": COUNTS_BEFORE,
    "kv_transfer_params": "the cache of another worker is named",
    "echo": "the prompt is a part of the answer",
    "suffix": "the text after the answer is given",
    "prompt_logprobs": "the prompt would be scored again",
    "truncate_prompt_tokens": "the prompt would be cut at another place",
    "features": "the prompt has media",
    "content_parts": "the prompt has media",
    "functions": "the request has tools",
}
"""Fields with which a request cannot be carried on; neither null nor 0 nor empty counts as set."""

GUIDED = "guided_"


def unfit(api: str, body: Mapping[str, Any]) -> str | None:
    """Return why a request cannot be carried on, None if it can. `api` is one of APIS."""
    params = body.get("sampling_params") if api == "generate" else None
    asked = {**body, **params} if isinstance(params, dict) else body
    for name, value in asked.items():
        if (name in NOT_IF_SET or name.startswith(GUIDED)) and _is_set(name, value):
            return f"{name}: {NOT_IF_SET.get(name, NOT_IF_SET['regex'])}"
    return _several(api, body, asked) or _structured(asked) or _of_chat(api, body)


def _is_set(name: str, value: object) -> bool:
    return value is not None if name == "prompt_logprobs" else bool(value)


def _several(api: str, body: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    for name in ("n", "best_of"):
        if asked.get(name) not in (None, 1):
            return f"{name}: only one choice can be carried on"
    if is_true(asked.get("use_beam_search")):
        return "use_beam_search: several sequences are sampled"
    prompt = body.get("prompt") if api == "completions" else None
    if isinstance(prompt, list) and not all(isinstance(one, int) for one in prompt):
        return None if len(prompt) == 1 else "prompt: only one prompt can be carried on"
    return None


def _structured(asked: Mapping[str, Any]) -> str | None:
    wanted = asked.get("response_format")
    if wanted is None or (isinstance(wanted, dict) and wanted.get("type") == "text"):
        return None
    return f"response_format: {NOT_IF_SET['regex']}"


def _of_chat(api: str, body: Mapping[str, Any]) -> str | None:
    if api != "chat":
        return None
    if body.get("tools") and body.get("tool_choice") != "none":
        return "tools: only the worker that began can tell a tool call from text"
    messages = body.get("messages")
    has_media = isinstance(messages, list) and any(map(_has_media, messages))
    return "messages: the prompt has media" if has_media else None


def _has_media(message: object) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return False
    return any(not isinstance(part, dict) or part.get("type") != "text" for part in content)
