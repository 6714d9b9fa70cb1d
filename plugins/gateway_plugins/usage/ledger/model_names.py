"""Limits the number of distinct model names that are counted, because callers choose them."""

from collections.abc import Iterable

from gateway import Call, Outcome
from gateway_plugins.usage.ledger.row import MAX_NAME

OTHER = "other"

MAX_MODELS = 1_000
"""Maximum number of distinct names; further models are counted as OTHER."""


class Models:
    """Model names that a worker, or a plugin in its place, has served at least once."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def learn(self, names: Iterable[str]) -> None:
        self._known.update(names)

    def of(self, call: Call, outcome: Outcome) -> str:
        """Return the name under which the call is counted; "" if the call names no model."""
        name = call.model or ""
        return name if name in self._known else self.named(name, served=_is_served(call, outcome))

    def named(self, name: str, *, served: bool) -> str:
        """Return the name under which a call for `name` is counted; "" if `name` is empty.

        A new name is OTHER unless it was `served`, is plain, and fewer than MAX_MODELS are known.
        """
        if not name or name in self._known:
            return name
        if len(self._known) >= MAX_MODELS or not is_plain(name) or not served:
            return OTHER
        self._known.add(name)
        return name


def is_plain(name: str) -> bool:
    return len(name) <= MAX_NAME and name.isprintable()


def _is_served(call: Call, outcome: Outcome) -> bool:
    status = call.attempts[-1].status if call.attempts else None
    if status is not None:
        return status < 400
    return outcome.result == "success"
