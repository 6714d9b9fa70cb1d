"""Estimate of the tokens that a call may cost, from its request alone."""

from gateway import Call, Requested

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
    api = call.api
    if api is not None and api.max_tokens:
        requested = api.requested(call.body.readable or b"")
        prompt = max(call.prompt_estimate, requested.prompt_ids)
        return prompt, _completion(requested, completion)
    return (call.prompt_estimate, 0) if api is not None and api.work == "reads" else (0, 1)


def _completion(requested: Requested, otherwise: int) -> int:
    each = otherwise if requested.max_tokens is None else requested.max_tokens
    return min(MAX_COMPLETION_TOKENS, each * requested.choices * requested.prompts)
