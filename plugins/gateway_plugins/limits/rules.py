"""Limits from the options, computed once for all keys with the same limits."""

from typing import NamedTuple

from gateway import Principal
from gateway_plugins.limits.options import MAX_WAIT, KeyLimits, Options
from gateway_plugins.limits.refusing import BucketLines, Code
from gateway_plugins.limits.waiting.lines import Patience

BILLION = 1_000_000_000

MINUTE = 60.0


class Flow(NamedTuple):
    """Parameters of a bucket: a limit per minute, of which at most `capacity` at once."""

    code: Code
    limit: int
    capacity: int
    lines: BucketLines

    @property
    def rate(self) -> float:
        """Refill per second."""
        return self.limit / MINUTE


class Budget(NamedTuple):
    """Maximum number of tokens, or of billionths of a currency, per day or month."""

    code: Code
    limit: int
    of_cost: bool
    of_day: bool

    @property
    def unit(self) -> int:
        """Counted units per reported unit: a cost is counted in billionths."""
        return BILLION if self.of_cost else 1


class Terms(NamedTuple):
    """Limits of one key. None, and no budgets, if nothing of that kind is limited.

    `patience`: how many calls above `concurrent` wait; None: all are rejected.
    """

    requests: Flow | None
    tokens: Flow | None
    concurrent: int | None
    budgets: tuple[Budget, ...]
    patience: Patience | None = None

    @property
    def limited(self) -> bool:
        return any(one is not None for one in self[:3]) or bool(self.budgets)


class Rules:
    """Limits by key for one version of the options. Keys with the same limits share one Terms."""

    def __init__(self, options: Options) -> None:
        every = (options.default, *options.tiers.values(), *options.keys.values())
        self.options = options
        self.have_budgets = any(_budgets_of(one) for one in every)
        self._terms: dict[tuple[str | None, str | None], Terms | None] = {}

    def terms(self, key: str, tier: str | None) -> Terms | None:
        """Return the limits of a key; None if the key has none."""
        options = self.options
        whose = (key if key in options.keys else None, tier if tier in options.tiers else None)
        try:
            return self._terms[whose]
        except KeyError:
            terms = _terms_of(options.limits_of(*whose))
            found = self._terms[whose] = terms if terms.limited else None
            return found

    def exempt(self, principal: Principal | None) -> bool:
        """Whether the principal's calls are counted only, and never rejected."""
        return principal is not None and self.options.exempt_scope in principal.scopes


def _terms_of(limits: KeyLimits) -> Terms:
    concurrent = limits.of("concurrent")
    requests = limits.of("requests_per_minute")
    tokens = limits.of("tokens_per_minute")
    return Terms(
        None if requests is None else _requests(int(requests), limits.of("burst_requests")),
        None if tokens is None else _tokens(int(tokens), limits.of("burst_tokens")),
        None if concurrent is None else int(concurrent),
        _budgets_of(limits),
        _patience_of(limits),
    )


def _patience_of(limits: KeyLimits) -> Patience | None:
    most, concurrent = limits.of("max_waiting"), limits.of("concurrent")
    if most is None or concurrent is None:
        return None
    return Patience(int(most), limits.of("max_wait") or MAX_WAIT, int(concurrent))


def _requests(limit: int, burst: float | None) -> Flow:
    capacity = int(burst or limit)
    return Flow("requests_per_minute", limit, capacity, BucketLines("requests", capacity))


def _tokens(limit: int, burst: float | None) -> Flow:
    capacity = int(burst or limit)
    return Flow("tokens_per_minute", limit, capacity, BucketLines("tokens", capacity))


_BUDGETS: tuple[tuple[Code, bool, bool], ...] = (
    ("cost_per_month", True, False),
    ("tokens_per_month", False, False),
    ("cost_per_day", True, True),
    ("tokens_per_day", False, True),
)
"""In the order of checks: an exhausted month is reported before an exhausted day."""


def _budgets_of(limits: KeyLimits) -> tuple[Budget, ...]:
    found = []
    for code, of_cost, of_day in _BUDGETS:
        limit = limits.of(code)
        if limit is not None:
            amount = round(limit * BILLION) if of_cost else int(limit)
            found.append(Budget(code, amount, of_cost, of_day))
    return tuple(found)
