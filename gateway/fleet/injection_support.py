"""Which injections a worker rejects, learned from its answers.

An engine that does not know `return_token_ids` may answer 400 or 422 and name the field. Its error
text alone proves nothing, because a caller's own mistake can quote the request. The gateway retries
once without the named fields; only if that attempt succeeds did the injection cause the error.
"""

import logging

from gateway.wire.injection import INJECTIONS, NO_INJECTIONS, Injection, listed

log = logging.getLogger("gateway")


_ALL: frozenset[Injection] = frozenset(INJECTIONS)


class Refusals:
    """The injections that one worker rejects, kept for as long as the gateway runs.

    They are kept by dialect: an engine may know `logprobs` in chat and not in completions. Once a
    worker has accepted an injection, a later error is not blamed on it.
    """

    __slots__ = ("_refused", "_taken", "_worker")

    def __init__(self, worker: str, *, inject: bool) -> None:
        """If `inject` is False, nothing is ever injected."""
        self._worker = worker
        self._refused: dict[str, frozenset[Injection]] | None = {} if inject else None
        self._taken: dict[str, frozenset[Injection]] = {}

    def of(self, dialect: str) -> frozenset[Injection]:
        """Injections to leave out of calls of `dialect`."""
        return _ALL if self._refused is None else self._refused.get(dialect, NO_INJECTIONS)

    def learn(
        self, dialect: str, taken: frozenset[Injection], left_out: frozenset[Injection]
    ) -> None:
        """Record a response without error to a call with `taken`; with `left_out` it had failed."""
        known = self._taken.get(dialect, NO_INJECTIONS)
        if not taken <= known:
            self._taken[dialect] = known = known | taken
        if left_out and self._refused is not None:
            new = left_out - known - self.of(dialect)
            if new:
                self._refused[dialect] = self.of(dialect) | new
                log.warning(
                    "worker %s refuses %s in %s calls; it is called without, and what that would "
                    "have told is missing from traces",
                    self._worker,
                    listed(new),
                    dialect,
                )
