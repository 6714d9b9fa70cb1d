"""Estimated need of a call before it runs, and its actual use after, in tokens and cost."""

import msgspec

from gateway import Attempt, Call, Outcome
from gateway_plugins.limits.estimate import estimate
from gateway_plugins.limits.options import Options


class Need(msgspec.Struct, frozen=True, gc=False):
    """Tokens of a call, and their cost in billionths."""

    tokens: int
    cost: int


ZERO_NEED = Need(0, 0)


def need_of(call: Call, options: Options) -> Need:
    prompt, completion = estimate(call, options.completion_estimate)
    tokens = prompt + completion
    if not options.prices or not tokens:
        return Need(tokens, 0)
    return Need(tokens, options.price_of(call.model).of(prompt, completion))


def used_by(call: Call, outcome: Outcome, needed: Need, options: Options) -> Need:
    """Return the usage that the response reports; if it reports none, all of `needed`.

    Zero if the request needs no tokens, as a usage count in its response belongs to another call.
    Also zero if the response reports no usage and no worker can have run the call.
    """
    if not needed.tokens:
        return ZERO_NEED
    usage = outcome.usage
    if usage is None:
        return needed if _may_have_run(call) else ZERO_NEED
    if not options.prices:
        return Need(usage.prompt_tokens + usage.completion_tokens, 0)
    price = options.price_of(call.model)
    cost = price.of(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    return Need(usage.total_tokens, cost)


def _may_have_run(call: Call) -> bool:
    """Whether the call was sent to a worker that did not reject it."""
    return any(_is_possible(attempt) for attempt in call.attempts)


def _is_possible(attempt: Attempt) -> bool:
    if attempt.connected is None:
        return False
    return attempt.status is None or 200 <= attempt.status < 300
