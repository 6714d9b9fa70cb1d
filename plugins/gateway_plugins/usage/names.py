"""The names of models: callers write them, so that only so many are told apart."""

from collections.abc import Iterable

from gateway import Call, Outcome
from gateway_plugins.usage.ledger import LONGEST, SUCCESS, how_it_went

OTHER = "other"

MOST = 1_000
"""Names that are told apart; those of further models are OTHER."""


class Models:
    """Names that were served once, by a worker or in its place."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def learn(self, names: Iterable[str]) -> None:
        self._known.update(names)

    def of(self, call: Call, outcome: Outcome) -> str:
        """The model as it is counted: "" where the call names none."""
        name = call.model or ""
        return name if name in self._known else self.named(name, served=_is_served(call, outcome))

    def named(self, name: str, *, served: bool) -> str:
        """The same for a call that asks for `name`, and may have been served; "": for none."""
        if not name or name in self._known:
            return name
        if len(self._known) >= MOST or not is_plain(name) or not served:
            return OTHER
        self._known.add(name)
        return name


def is_plain(name: str) -> bool:
    return len(name) <= LONGEST and name.isprintable()


def _is_served(call: Call, outcome: Outcome) -> bool:
    status = call.attempts[-1].status if call.attempts else None
    if status is not None:
        return status < 400
    return how_it_went(outcome.caller_gone, outcome.complete, outcome.status) == SUCCESS
