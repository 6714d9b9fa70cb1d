"""What a call may take of a budget before it runs, and what it took."""

import msgspec

from gateway import Attempt, Call, Outcome
from gateway_plugins.budgets.options import Options

MAX_COMPLETION_TOKENS = 1 << 32


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """Calls, tokens of prompts and completions, those of completions alone, cost in billionths."""

    calls: int = 0
    tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0

    def plus(self, more: "Amounts") -> "Amounts":
        return Amounts(*(a + b for a, b in zip(self.row, more.row, strict=True)))

    @property
    def row(self) -> tuple[int, int, int, int]:
        return self.calls, self.tokens, self.completion_tokens, self.cost


NOTHING = Amounts()


class Ask(msgspec.Struct, frozen=True):
    """What one call asks for: tokens of its prompt, and of each of its `samples` at most.

    `bounded`: the request sets that maximum, else it is expected. `caps`: the API has a field for
    it, so it can be set.
    """

    prompt: int
    completion: int
    samples: int
    model: str | None
    bounded: bool = True
    caps: bool = False

    def amounts(self, options: Options, completion: int | None = None) -> Amounts:
        """Return what the call may take, with at most `completion` tokens for each sample."""
        each = self.completion if completion is None else completion
        sampled = min(each * self.samples, MAX_COMPLETION_TOKENS)
        cost = options.price_of(self.model).of(self.prompt, sampled) if options.prices else 0
        return Amounts(1, self.prompt + sampled, sampled, cost)


def ask_of(call: Call, options: Options) -> Ask:
    """Return what a POST whose body was read asks for, as an upper bound if it sets a maximum."""
    api, prompt = call.dialect or call.api, call.body.prompt_estimate
    if api is None or not api.max_tokens:
        return Ask(prompt if api is not None and api.work == "reads" else 0, 0, 1, call.model)
    said = api.requested(call.body.readable or b"", call.body.fields)
    bounded = said.max_tokens is not None
    completion = options.completion_estimate if said.max_tokens is None else said.max_tokens
    samples, caps = max(said.choices * said.prompts, 1), not api.nested
    return Ask(max(prompt, said.prompt_ids), completion, samples, call.model, bounded, caps)


def used_by(call: Call, outcome: Outcome, reserved: Amounts, options: Options) -> Amounts:
    """Return what a call took: by its usage; all that it had reserved if that is not known.

    Nothing if no worker can have run it.
    """
    if not any(map(_may_have_run, call.attempts)):
        return NOTHING
    usage = outcome.usage
    if usage is None:
        return reserved
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    price = options.price_of(call.model)
    cost = price.of(prompt, completion, usage.cached_tokens) if options.prices else 0
    return Amounts(1, prompt + completion, completion, cost)


def _may_have_run(attempt: Attempt) -> bool:
    if attempt.connected is None:
        return False
    return attempt.status is None or 200 <= attempt.status < 300
