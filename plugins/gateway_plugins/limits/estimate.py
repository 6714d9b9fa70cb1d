"""Estimate of the tokens that a call may cost, from its request alone."""

from gateway import Call

MAX_COMPLETION_TOKENS = 1 << 32
"""Maximum estimate of the completion tokens of one call."""


def estimate(call: Call, completion: int) -> tuple[int, int]:
    """Return the prompt tokens and the completion tokens that a call may cost.

    `completion` is the number per choice if the request sets no maximum. Without that, it is an
    upper bound: each prompt of a list, and each of its choices, may take the maximum. (0, 0) if the
    request is not a POST: then no model is called. (0, 1) if it is not known what the API costs, so
    that such calls are rejected once no tokens are left.
    """
    if call.method != "POST":
        return 0, 0
    api = call.dialect or call.api
    prompt = call.body.prompt_estimate
    if api is None or not api.max_tokens:
        return (prompt, 0) if api is not None and api.work == "reads" else (0, 1)
    requested = api.requested(call.body.readable or b"", call.body.fields)
    if requested.max_tokens is not None:
        completion = requested.max_tokens
    completion *= requested.choices * requested.prompts
    if completion > MAX_COMPLETION_TOKENS:
        completion = MAX_COMPLETION_TOKENS
    if requested.prompt_ids > prompt:
        prompt = requested.prompt_ids
    return prompt, completion
