"""Options of the plugin, and the limits that they give to a key."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_LIMIT = 1 << 53
"""Maximum of a limit, in requests, tokens or billionths of a currency."""

NOT_GIVEN = 0
"""Stands for a limit that is left out; a configuration cannot set this value."""

Count = Annotated[int, Meta(gt=0, le=MAX_LIMIT)]
Amount = Annotated[float, Meta(gt=0, le=MAX_LIMIT / 1e9)]
Wait = Annotated[float, Meta(gt=0, le=86_400)]
PerMillion = Annotated[float, Meta(ge=0, le=1e5)]

ANY_MODEL = "*"

MAX_WAIT = 30.0
"""Seconds that a call waits for another call of its key, unless `max_wait` is given."""


class KeyLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one key; null means no limit, and a limit left out is that of the wider limits.

    `burst_requests` and `burst_tokens`: how much of a minute's limit may be used at once; all of it
    if they are not given. Up to `max_waiting` calls above `concurrent` wait until a call of the key
    ends, each for up to `max_wait` seconds (MAX_WAIT if that is not given); further ones are
    rejected. Days and months are UTC. Costs are in the currency of `prices`.
    """

    requests_per_minute: Count | None = NOT_GIVEN
    burst_requests: Count | None = NOT_GIVEN
    tokens_per_minute: Count | None = NOT_GIVEN
    burst_tokens: Count | None = NOT_GIVEN
    concurrent: Count | None = NOT_GIVEN
    max_waiting: Count | None = NOT_GIVEN
    max_wait: Wait | None = NOT_GIVEN
    tokens_per_day: Count | None = NOT_GIVEN
    tokens_per_month: Count | None = NOT_GIVEN
    cost_per_day: Amount | None = NOT_GIVEN
    cost_per_month: Amount | None = NOT_GIVEN

    def over(self, wider: "KeyLimits") -> "KeyLimits":
        """Return these limits, with those left out taken from `wider`."""
        own = {name: getattr(self, name) for name in self.__struct_fields__}
        given = {name: value for name, value in own.items() if value != NOT_GIVEN}
        return msgspec.structs.replace(wider, **given)

    def of(self, name: str) -> float | None:
        """Value of the named limit; None if there is none."""
        value: float | None = getattr(self, name)
        return None if value == NOT_GIVEN else value

    @property
    def bounds_cost(self) -> bool:
        return bool(self.of("cost_per_day") or self.of("cost_per_month"))


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices per million tokens.

    `cached` is for the prompt tokens that the engine had cached; null means the price of `input`.
    """

    input: PerMillion
    output: PerMillion
    cached: PerMillion | None = None

    def of(self, prompt: int, completion: int, cached: int = 0) -> int:
        """Cost of these numbers of tokens, in billionths; `prompt` includes `cached`."""
        cached = min(cached, prompt)
        cached_price = self.input if self.cached is None else self.cached
        millionths = (
            (prompt - cached) * self.input + cached * cached_price + completion * self.output
        )
        return round(millionths * 1_000)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of all keys.

    A key is a principal's id; calls without a principal share the key `anonymous`. `default`
    applies to every key. The entry of `tiers` that the principal's label `tier` names overrides
    `default`, and the key's entry in `keys` overrides both. `prices` are by model; `*` is any other
    model. `completion_estimate`: expected completion tokens of a call that sets no maximum.
    `exempt_scope`: the scope of principals whose calls are counted, and never rejected or made to
    wait; null: there is none.
    """

    default: KeyLimits = KeyLimits()
    tiers: dict[str, KeyLimits] = {}
    keys: dict[str, KeyLimits] = {}
    prices: dict[str, Price] = {}
    completion_estimate: Annotated[int, Meta(ge=0, le=1 << 20)] = 1_000
    exempt_scope: str | None = "evaluator"

    def __post_init__(self) -> None:
        everyone = (self.default, *self.tiers.values(), *self.keys.values())
        if any(one.bounds_cost for one in everyone) and ANY_MODEL not in self.prices:
            raise ValueError(
                'cost_per_day and cost_per_month need prices, with one for the model "*", so that '
                "no model's tokens go uncounted (its input and output may be 0)"
            )

    def limits_of(self, key: str | None, tier: str | None) -> KeyLimits:
        limits = self.default
        if tier in self.tiers:
            limits = self.tiers[tier].over(limits)
        return self.keys[key].over(limits) if key in self.keys else limits

    def price_of(self, model: str | None) -> Price:
        found: Mapping[str, Price] = self.prices
        return found.get(model or ANY_MODEL) or found.get(ANY_MODEL) or FREE


FREE = Price(input=0, output=0)
