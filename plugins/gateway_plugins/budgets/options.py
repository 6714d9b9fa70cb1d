"""Options of the plugin, and the limits of one session or run."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_COUNT = 1 << 53

BILLION = 1_000_000_000
"""Costs are kept in billionths of the currency of the prices."""

Count = Annotated[int, Meta(gt=0, le=MAX_COUNT)]
Amount = Annotated[float, Meta(gt=0, le=MAX_COUNT / BILLION)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
PerMillion = Annotated[float, Meta(ge=0, le=1e5)]

Mode = Literal["refuse", "length"]

Name = Literal["max_calls", "max_tokens", "max_completion_tokens", "max_cost", "max_time"]


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a session or a run may spend; null: no limit.

    `max_tokens` are those of prompts and completions. `max_cost` is in the currency of the prices.
    `max_time` are seconds since the first call. `when_spent`: refuse: an error; length: a response
    that ends with the finish reason `length`.
    """

    max_calls: Count | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    max_cost: Amount | None = None
    max_time: Seconds | None = None
    when_spent: Mode | None = None

    def over(self, wider: "Budget") -> "Budget":
        """Return this budget, with what is left out taken from `wider`."""
        own = {name: getattr(self, name) for name in self.__struct_fields__}
        given = {name: value for name, value in own.items() if value is not None}
        return msgspec.structs.replace(wider, **given)

    @property
    def limits_anything(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__struct_fields__[:5])


NO_BUDGET = Budget()


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices per million tokens; `cached` is for prompt tokens that the engine had cached."""

    input: PerMillion
    output: PerMillion
    cached: PerMillion | None = None

    def of(self, prompt: int, completion: int, cached: int = 0) -> int:
        """Cost in billionths; `prompt` includes `cached`."""
        cached = min(cached, prompt)
        for_cached = self.input if self.cached is None else self.cached
        millionths = (prompt - cached) * self.input + cached * for_cached
        return round((millionths + completion * self.output) * 1_000)


FREE = Price(input=0, output=0)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`session` and `run` are the budgets of every session, and of every run.

    A budget that a session or a run is given holds in its place, limit by limit. `prices` are by
    model; `*` is any other model. `completion_estimate`: expected completion tokens of a call that
    sets no maximum. A call for which calls in flight leave too little waits up to `max_wait`
    seconds. `keep_days`: days after the last call until what was spent is forgotten.
    """

    session: Budget = NO_BUDGET
    run: Budget = NO_BUDGET
    prices: dict[str, Price] = {}
    completion_estimate: Annotated[int, Meta(ge=0, le=1 << 20)] = 1_000
    max_wait: Annotated[float, Meta(ge=0, le=3_600)] = 30.0
    keep_days: Annotated[float, Meta(gt=0)] = 90.0

    def __post_init__(self) -> None:
        if (self.session.max_cost or self.run.max_cost) and "*" not in self.prices:
            raise ValueError(
                'max_cost needs prices, with one for the model "*", so that no model\'s tokens go '
                "uncounted (its input and output may be 0)"
            )

    def price_of(self, model: str | None) -> Price:
        prices: Mapping[str, Price] = self.prices
        return prices.get(model or "*") or prices.get("*") or FREE
