"""`/v1/completions`: parses and checks a request as the engine does."""

from random import Random

from gateway.simulator.api.answers import header
from gateway.simulator.api.completions_answer import CompletionsAnswer
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.generation import Prepared
from gateway.simulator.input.refusals import bad_request, bad_schema, parse, shown
from gateway.simulator.input.requests import CompletionRequest
from gateway.simulator.preparing import (
    Plan,
    check_ids,
    check_length,
    check_request,
    prompt_from_text,
    structured,
    truncated,
)

_DEFAULT_MAX_TOKENS = 16


def prepare_completions(body: bytes, given_id: str | None, config: SimulatorConfig) -> Prepared:
    """Parse and check `body`, and plan its response; raises Refused."""
    request = parse(body, CompletionRequest)
    prompts = _prompts(request)
    check_request(request, config)
    if request.suffix is not None:
        refusal = bad_request("suffix is only supported for models with FIM completion rendering")
        refusal.param = "suffix"
        raise refusal
    ids = [truncated(_ids(prompt, config), request) for prompt in prompts]

    def script(chance: Random) -> str | None:
        return structured(request, chance)

    asked = _DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    plan = Plan(request, ids, asked, request.logprobs, script)
    answer = CompletionsAnswer(request, ids, header("cmpl-", request, given_id, config.model))
    return Prepared(plan, answer)


def _prompts(request: CompletionRequest) -> list[str | list[int]]:
    """Return the prompts as a list: the field is a text, ids, or a list of either."""
    prompt = request.prompt
    if prompt is None or prompt == "":
        raise bad_request(
            "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"
        )
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise bad_request("You must pass at least one prompt")
    ids = [number for number in prompt if isinstance(number, int)]
    if not ids:
        return [_checked(item, place) for place, item in enumerate(prompt)]
    if len(ids) < len(prompt):
        says = "Input should be a valid list"
        raise bad_schema("list_type", "body.prompt.0", says, shown(prompt[0]))
    check_ids(ids, "body.prompt")
    return [ids]


def _checked(item: int | str | list[int], place: int) -> str | list[int]:
    assert not isinstance(item, int)
    if not item:
        raise bad_request("You must pass at least one prompt")
    if isinstance(item, list):
        check_ids(item, f"body.prompt.{place}")
    return item


def _ids(prompt: str | list[int], config: SimulatorConfig) -> list[int]:
    if isinstance(prompt, str):
        return prompt_from_text(prompt, config)
    check_length(len(prompt), config)
    return prompt
