"""From a request to sequences that can be stepped: checks, sampling, random sources, forced text.

The checks are vLLM's, in its order and its wording; anything that vLLM does not check is accepted.
"""

from collections.abc import Callable, Sequence
from random import Random

import msgspec

from gateway.simulator.breaking import Conditions
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.engine.model import Context
from gateway.simulator.engine.reasoning import thought
from gateway.simulator.engine.sampler import Sampling
from gateway.simulator.engine.sequences import Generation
from gateway.simulator.engine.tokens import EOS, SIZE, encode
from gateway.simulator.input.refusals import bad_request, bad_schema, unknown_model
from gateway.simulator.input.requests import GenerationRequest
from gateway.simulator.input.schema import instance

_MAX_LOGPROBS = 20
_ANY_OBJECT: dict[str, object] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
}


class Plan(msgspec.Struct, frozen=True):
    """A checked request: one response for each prompt and each of `n`.

    `logprobs` is the number of alternatives reported with each token, None for no logprobs.
    `max_tokens` None means all that the context leaves. `script` returns the text that the model is
    forced to write, None if it is free. If it `thinks`, it writes its thoughts before.
    """

    request: GenerationRequest
    prompts: list[list[int]]
    max_tokens: int | None
    logprobs: int | None
    script: Callable[[Random], str | None]
    thinks: bool = False


def check_request(request: GenerationRequest, config: SimulatorConfig) -> None:
    """Run the checks that do not need the prompt; raises Refused."""
    if request.stream_options is not None and not request.stream:
        raise bad_request(
            "Stream options can only be defined when `stream=True`.", "stream_options"
        )
    if request.prompt_logprobs is not None and request.stream:
        raise bad_request(
            "`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs"
        )
    check_model(request.model, config)


def check_model(model: str | None, config: SimulatorConfig) -> None:
    if model is not None and model != config.model:
        raise unknown_model(model, config.model)


def check_ids(ids: Sequence[int], where: str) -> None:
    """Check token ids from a caller; `where` is their place in the body. Raises Refused."""
    for place, number in enumerate(ids):
        if number < 0:
            says = "Input should be greater than or equal to 0"
            raise bad_schema("greater_than_equal", f"{where}.{place}", says, str(number), {"ge": 0})
    check_vocabulary(ids)


def check_vocabulary(ids: Sequence[int]) -> None:
    for number in ids:
        if number >= SIZE:
            raise bad_request(f"Token id {number} is out of vocabulary")


def prompt_from_text(text: str, config: SimulatorConfig) -> list[int]:
    """Return the ids of `text`; raises Refused if it is too long.

    As in vLLM, `text` is encoded only until its length is known to exceed the limit.
    """
    ids = encode(text, limit=config.max_model_len + 1)
    check_length(len(ids), config, at_least=True)
    return ids


def check_length(length: int, config: SimulatorConfig, *, at_least: bool = False) -> None:
    if length < config.max_model_len:
        return
    counted = f"{'at least ' * at_least}{length} input tokens"
    raise bad_request(
        f"This model's maximum context length is {config.max_model_len} tokens. However, your "
        f"prompt contains {counted}, which exceeds this limit even without any output tokens. "
        "Please reduce the length of the input prompt.",
        "input_tokens",
        length,
    )


def truncated(ids: list[int], request: GenerationRequest) -> list[int]:
    """Return the last `truncate_prompt_tokens` ids of a prompt."""
    keep = request.truncate_prompt_tokens
    return ids if keep is None or keep < 1 else ids[-keep:]


def structured(request: GenerationRequest, chance: Random) -> str | None:
    """Return a random text that fits the request's structured output, None if it has none."""
    outputs, answer = request.structured_outputs, request.response_format
    if outputs is not None and outputs.choice:
        return chance.choice(outputs.choice)
    if outputs is not None and outputs.json_object:
        return instance(_ANY_OBJECT, chance)
    if outputs is not None and isinstance(outputs.json, dict):
        return instance(outputs.json, chance)
    if answer is not None and answer.type == "json_schema" and answer.json_schema is not None:
        return instance(answer.json_schema.schema or _ANY_OBJECT, chance)
    if answer is not None and answer.type == "json_object":
        return instance(_ANY_OBJECT, chance)
    return None


def generations(
    plan: Plan, config: SimulatorConfig, conditions: Conditions, fresh: Random
) -> list[Generation]:
    """Return the sequences of `plan`, prompt by prompt; `fresh` decides calls without a seed."""
    found: list[Generation] = []
    for prompt in plan.prompts:
        context = Context()
        for number in prompt:
            context.read(number)
        sampling = _sampling(plan, len(prompt), config, conditions)
        for choice in range(_count(plan.request)):
            chance = _chance(plan.request, sampling, context, choice, fresh)
            script = _script(plan, chance)
            found.append(Generation(len(found), context.copy(), sampling, chance, script))
    return found


def _script(plan: Plan, chance: Random) -> list[int]:
    thoughts = encode(thought(chance)) if plan.thinks else []
    text = plan.script(chance)
    return thoughts if text is None else [*thoughts, *encode(text), EOS]


def check_sampling(plan: Plan, config: SimulatorConfig) -> None:
    """Check what `generations` would check; raises Refused."""
    for prompt in plan.prompts:
        _sampling(plan, len(prompt), config, Conditions())


def _count(request: GenerationRequest) -> int:
    n = 1 if request.n is None else request.n
    if n < 1:
        raise bad_request(f"n must be at least 1, got {n}.")
    return n


def _chance(
    request: GenerationRequest, sampling: Sampling, context: Context, choice: int, fresh: Random
) -> Random:
    """Return the random source of one sequence: equal for equal prompts, seeds and choices.

    A greedy sequence needs no seed for that.
    """
    if sampling.greedy:
        return Random(context.digest.hex())
    if request.seed is None:
        return Random(fresh.getrandbits(64))
    return Random(f"{context.digest.hex()} {request.seed} {choice}")


def _sampling(
    plan: Plan, prompt_tokens: int, config: SimulatorConfig, conditions: Conditions
) -> Sampling:
    request = plan.request
    temperature = 1.0 if request.temperature is None else request.temperature
    if temperature < 0:
        raise bad_request(
            f"temperature must be non-negative, got {temperature}.", "temperature", temperature
        )
    top_p = 1.0 if request.top_p is None else request.top_p
    if not 0 < top_p <= 1:
        raise bad_request(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)
    allowed = request.allowed_token_ids
    if allowed is not None and not all(0 <= number < SIZE for number in allowed):
        raise bad_request("allowed_token_ids contains out-of-vocab token id!", "allowed_token_ids")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Sampling(
        max_tokens=_max_tokens(plan, prompt_tokens, config),
        min_tokens=request.min_tokens or 0,
        temperature=temperature,
        top_p=top_p,
        top_k=request.top_k or 0,
        stop=tuple(filter(None, stop)),
        include_stop=bool(request.include_stop_str_in_output),
        stop_token_ids=frozenset(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        allowed=frozenset(allowed) if allowed else None,
        logprobs=_logprobs(plan),
        abort_after=conditions.abort_after,
    )


def _max_tokens(plan: Plan, prompt_tokens: int, config: SimulatorConfig) -> int:
    asked, longest = plan.max_tokens, config.max_model_len
    if asked is None:
        return longest - prompt_tokens
    if asked < 1:
        raise bad_request(f"max_tokens must be at least 1, got {asked}.", "max_tokens", asked)
    if asked > longest:
        raise bad_request(
            f"max_tokens={asked} cannot be greater than max_model_len={longest}. "
            "Please request fewer output tokens.",
            "max_tokens",
            asked,
        )
    return min(asked, longest - prompt_tokens)


def _logprobs(plan: Plan) -> int | None:
    asked = plan.logprobs
    if asked is not None and asked > _MAX_LOGPROBS:
        raise bad_request(
            f"Requested sample logprobs of {asked}, which is greater than max allowed: "
            f"{_MAX_LOGPROBS}",
            "logprobs",
            asked,
        )
    return asked
