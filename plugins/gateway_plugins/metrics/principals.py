"""Counts by principal, if configured: ids of principals, never their credentials."""

from collections import Counter
from collections.abc import Iterator

from gateway import Call, Outcome, Sample
from gateway_plugins.metrics.labels import Names

MAX_PRINCIPALS = 1_000
"""Maximum number of principals that are kept apart."""

_REQUESTS = "Calls that have ended, by who called."
_TOKENS = "Tokens of calls, by who called."


class Principals:
    """Calls and tokens of each principal; an unauthenticated call has an empty principal."""

    def __init__(self) -> None:
        self._names = Names(MAX_PRINCIPALS)
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()

    def add(self, call: Call, outcome: Outcome) -> None:
        whose = self._names.of(None if call.principal is None else call.principal.id, good=True)
        self._requests[whose] += 1
        if outcome.usage is not None:
            self._tokens[whose, "input"] += outcome.usage.prompt_tokens
            self._tokens[whose, "output"] += outcome.usage.completion_tokens

    def samples(self) -> Iterator[Sample]:
        for whose, count in self._requests.items():
            labels = {"principal": whose}
            yield Sample("gateway_principal_requests_total", "counter", count, _REQUESTS, labels)
        for (whose, kind), count in self._tokens.items():
            labels = {"principal": whose, "gen_ai_token_type": kind}
            yield Sample("gateway_principal_tokens_total", "counter", count, _TOKENS, labels)
