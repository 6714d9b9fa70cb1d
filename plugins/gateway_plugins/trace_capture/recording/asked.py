"""What a request asked to be sampled: its parameters, and how many choices of how many prompts."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway import NOT_JSON, Api, is_true
from gateway_plugins.trace_capture.answers.assembly import WITH_CHOICES

SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "n",
    "best_of",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "include_stop_str_in_output",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "length_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "use_beam_search",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "response_format",
    "structured_outputs",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
    "echo",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
)
"""Request fields that affect sampling, or how the prompt is tokenised."""

_NAMES = frozenset(SAMPLING_FIELDS)

_SEVERAL = frozenset({"n", "best_of", "use_beam_search"})
"""Those by which a request may ask for more than one sample of each prompt."""

_Sampling = msgspec.defstruct(
    "_Sampling",
    [(name, Any | msgspec.UnsetType, msgspec.UNSET) for name in SAMPLING_FIELDS],
    gc=False,
)
_sampling = msgspec.json.Decoder(_Sampling)


class Asked(msgspec.Struct, frozen=True):
    """`choices` of each of `prompts`; 0 prompts for an API whose choices are not known.

    `sampled`: each choice is drawn from the model's distribution. Not so with beam search, and if
    the engine returns the best of several. `hides_reasoning`: the response is to leave the
    reasoning out. `has_history`: all of the conversation is in the request.
    """

    prompts: int = 0
    choices: int = 1
    sampled: bool = True
    hides_reasoning: bool = False
    has_history: bool = True


class _Nested(msgspec.Struct, gc=False):
    sampling_params: Any = None


class _Reasoning(msgspec.Struct, gc=False):
    include_reasoning: Any = True


class _Thread(msgspec.Struct, gc=False):
    type: Any = None


class _Threaded(msgspec.Struct, gc=False):
    thread: _Thread | None = None


_threaded = msgspec.json.Decoder(_Threaded)
_nested = msgspec.json.Decoder(_Nested)
_reasoning = msgspec.json.Decoder(_Reasoning)


def sampling_params(
    body: bytes,
    injected: Mapping[str, object],
    overwritten: Mapping[str, object],
    *,
    nested: bool = False,
) -> dict[str, Any]:
    """Return the sampling fields sent to the engine: the caller's, overridden by the gateway's.

    `nested`: they are in an object of the request.
    """
    if nested:
        return _nested_params(body, injected, overwritten)
    try:
        asked = _sampling.decode(body)
    except NOT_JSON:
        return {}
    found: dict[str, Any] = msgspec.to_builtins(asked)
    for changes in (overwritten, injected):
        for name in changes:
            if name in _NAMES:
                found[name] = changes[name]
    return found


def _nested_params(
    body: bytes, injected: Mapping[str, object], overwritten: Mapping[str, object]
) -> dict[str, Any]:
    sent = injected.get("sampling_params", overwritten.get("sampling_params"))
    if sent is None:
        try:
            sent = _nested.decode(body).sampling_params
        except NOT_JSON:
            return {}
    return {str(name): value for name, value in sent.items()} if isinstance(sent, dict) else {}


def asked(api: Api | None, body: bytes, params: Mapping[str, object]) -> Asked:
    """Return what a request of `api` asked for; `params` are its sampling fields."""
    prompts = api.prompts_of(body).count if api is not None and api.name in WITH_CHOICES else 0
    hides = _hides_reasoning(body)
    if _SEVERAL.isdisjoint(params):
        return Asked(prompts, hides_reasoning=hides, has_history=_has_history(api, body))
    choices = _count(params.get("n"))
    best_of = is_true(params.get("use_beam_search")) or _count(params.get("best_of")) > choices
    return Asked(prompts, choices, not best_of, hides)


def _hides_reasoning(body: bytes) -> bool:
    if body.rfind(b'"include_reasoning"') < 0:
        return False
    try:
        included = _reasoning.decode(body).include_reasoning
    except NOT_JSON:
        return False
    return included is not None and not is_true(included)


def _has_history(api: Api | None, body: bytes) -> bool:
    """Whether a request of Messages does not leave what was said to a server that keeps it."""
    if api is None or api.name != "messages" or body.rfind(b'"thread"') < 0:
        return True
    try:
        thread = _threaded.decode(body).thread
    except NOT_JSON:
        return True
    return thread is None or thread.type == "create"


def _count(value: object) -> int:
    """Return a number of choices as engines read it, who take "2" for 2; 1 if there is none."""
    try:
        return max(int(value), 1) if isinstance(value, int | float | str) else 1
    except (ValueError, OverflowError):
        return 1
