"""`/inference/v1/generate`: parses and checks a request as the engine does."""

from random import Random

from gateway.simulator.api.answers import header
from gateway.simulator.api.template import turns
from gateway.simulator.api.tokens.generate_answer import GenerateAnswer
from gateway.simulator.api.tokens.own_choice import chosen_text
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.generation import Prepared
from gateway.simulator.input.refusals import bad_request, bad_schema, parse, shown, unfit
from gateway.simulator.input.requests import GenerationRequest
from gateway.simulator.input.tokens import GenerateRequest
from gateway.simulator.preparing import (
    Plan,
    check_length,
    check_model,
    check_vocabulary,
    structured,
)

_MAX_SEQUENCES = 256


def prepare_generate(body: bytes, given_id: str | None, config: SimulatorConfig) -> Prepared:
    """Parse and check `body`, and plan its response; raises Refused."""
    asked = parse(body, GenerateRequest)
    _check(asked)
    check_model(asked.model, config)
    check_length(len(asked.token_ids), config)
    check_vocabulary(asked.token_ids)
    request = _as_generation(asked)

    def script(chance: Random) -> str | None:
        return structured(request, chance) or chosen_text(asked, chance)

    sampling = asked.sampling_params
    ids, longest = asked.token_ids, sampling.max_tokens
    said = turns(ids)
    thinks = config.reasoning and len(said) > 1 and not said[-1][1]
    plan = Plan(request, [ids], longest, sampling.logprobs, script, thinks)
    head = header("generate-tokens-", request, given_id, config.model)
    return Prepared(plan, GenerateAnswer(asked, head))


def _check(asked: GenerateRequest) -> None:
    if not asked.token_ids:
        says = "List should have at least 1 item after validation, not 0"
        limits: dict[str, object] = {"field_type": "List", "min_length": 1, "actual_length": 0}
        raise bad_schema("too_short", "body.token_ids", says, shown([]), limits)
    if any(number < 0 for number in asked.token_ids):
        says = "token_ids must not contain negative values"
        raise unfit("body.token_ids", says, asked.token_ids)
    if asked.output_mode == "text" and not asked.sampling_params.detokenize:
        says = "output_mode='text' requires sampling_params.detokenize to be true"
        raise unfit("body", says, _given(asked))
    if (count := asked.sampling_params.n) > _MAX_SEQUENCES:
        says = "sampling_params.n must be at most the server's max_num_seqs"
        raise bad_request(f"{says} ({_MAX_SEQUENCES}), got {count}.")
    if asked.cache_salt == "":
        says = "Parameter 'cache_salt' must be a non-empty string if provided."
        raise bad_request(says, "cache_salt")


def _given(asked: GenerateRequest) -> dict[str, object]:
    """Return the fields that differ from their defaults, which a caller must have written."""
    fields = asked.__struct_fields__
    blank = GenerateRequest(token_ids=[], sampling_params=asked.sampling_params)
    named = {name: getattr(asked, name) for name in fields}
    kept = {name for name in fields if named[name] != getattr(blank, name)}
    return {name: named[name] for name in fields if name in kept | {"sampling_params"}}


def _as_generation(asked: GenerateRequest) -> GenerationRequest:
    sampling = asked.sampling_params
    shared = set(GenerationRequest.__struct_fields__) & set(sampling.__struct_fields__)
    return GenerationRequest(
        **{name: getattr(sampling, name) for name in shared},
        request_id=asked.request_id,
        stream=asked.stream,
        stream_options=asked.stream_options,
    )
