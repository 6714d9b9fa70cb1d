"""Calls that wait until their model is there."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from time import monotonic

import msgspec

from gateway import Call, CallError, ChooseAgain, StateKey
from gateway_plugins.runtime.holding.errors import (
    GatewayDrains,
    ModelColdStart,
    ModelLoadFailed,
    NotLoaded,
    Progress,
)
from gateway_plugins.runtime.options import Options

RETURN = 5.0
"""Seconds after its `Retry-After` within which a caller who was told to come back is expected."""

SINCE: StateKey[float] = StateKey("runtime")
"""When the call began to wait for its model, by `time.monotonic()`."""


class Ticket(msgspec.Struct, eq=False):
    """A call that waits since `since`; `outcome` is the error that ends the wait, None: choose."""

    call: Call
    since: float
    urgent: bool
    is_work: bool
    outcome: asyncio.Future[CallError | None]


def is_work(call: Call) -> bool:
    """Whether a call may wait: one of a key for batches, or of an item that the gateway runs."""
    return call.internal or call.source == "batch"


class Holding:
    """All calls that wait. `wake` is called with the model of each that begins to.

    `progress` returns what becomes of a model. A caller who was told to come back for a model is
    expected: the model is wanted meanwhile.
    """

    def __init__(
        self, options: Options, wake: Callable[[str], None], progress: Callable[[str], Progress]
    ) -> None:
        self._options = options
        self._wake = wake
        self._progress = progress
        self._tickets: defaultdict[str, dict[Ticket, None]] = defaultdict(dict)
        self._expected: dict[str, tuple[float, float]] = {}
        self._closed = False

    def set_options(self, options: Options) -> None:
        """Replace the options; calls that wait keep their time."""
        self._options = options

    def __len__(self) -> int:
        return sum(map(len, self._tickets.values()))

    @property
    def models(self) -> list[str]:
        """The models that calls wait for."""
        return list(self._tickets)

    def waiting(self, model: str) -> list[Ticket]:
        """Return the calls that wait for the model, in the order in which they began to."""
        return list(self._tickets.get(model, ()))

    def have(self, tickets: Iterable[Ticket]) -> bool:
        """Whether one of these calls still waits."""
        return any(ticket in some for ticket in tickets for some in self._tickets.values())

    def expected(self, model: str) -> float | None:
        """Return since when a caller is expected for the model (`time.monotonic()`), None: none."""
        since, until = self._expected.get(model, (0.0, 0.0))
        return since if monotonic() < until else None

    async def wait(self, call: Call, model: str) -> None:
        """Wait for the model. Raises ChooseAgain once it is there, NotLoaded if it does not come.

        A call that waits again, as its worker was gone again, has no more time than before.
        """
        since = call.state.get(SINCE)
        if since is None:
            since = call.state[SINCE] = monotonic()
        error = self._refusal(call, model, since) or await self._waited(call, model, since)
        if error is None:
            raise ChooseAgain
        if isinstance(error, NotLoaded) and not is_work(call):
            self._expect(model, error)
        raise error

    async def _waited(self, call: Call, model: str, since: float) -> CallError | None:
        ticket = self._ticket(call, since)
        self._tickets[model][ticket] = None
        self._wake(model)
        try:
            return await self._outcome(ticket, model)
        finally:
            del self._tickets[model][ticket]
            if not self._tickets[model]:
                del self._tickets[model]

    def _expect(self, model: str, error: NotLoaded) -> None:
        """Expect the caller back; a load goes on, or begins, although nobody waits meanwhile."""
        now = monotonic()
        since = self.expected(model)
        self._expected[model] = now if since is None else since, now + error.seconds + RETURN
        self._wake(model)

    def _ticket(self, call: Call, since: float) -> Ticket:
        outcome: asyncio.Future[CallError | None] = asyncio.get_running_loop().create_future()
        urgent = self._has(call, self._options.urgent_scope)
        return Ticket(call, since, urgent, is_work(call), outcome)

    async def _outcome(self, ticket: Ticket, model: str) -> CallError | None:
        """Return the error that ends the wait, None if the call may choose a worker again."""
        pause = self._options.comments
        while (left := self._left(ticket.call, ticket.since)) > 0:
            part = left if pause is None else min(left, pause)
            done, _ = await asyncio.wait([ticket.outcome], timeout=min(part, 3_600.0))
            if done:
                return ticket.outcome.result()
            if pause is not None:
                ticket.call.keep_alive()
        return self._error(model, self._progress(model))

    def _refusal(self, call: Call, model: str, since: float) -> CallError | None:
        """Return an error if the call may not wait, or if that would be in vain."""
        if self._closed:
            return GatewayDrains()
        progress = self._progress(model)
        evaluates = self._has(call, self._options.evaluator_scope)
        if len(self) >= self._options.max_held and not evaluates:
            said = f"the model `{model[:200]}` is not loaded, and {len(self)} calls wait already"
            return ModelColdStart(said, progress)
        if progress.reason is not None and progress.remaining > self._left(call, since):
            return self._error(model, progress)
        return None

    def _left(self, call: Call, since: float) -> float:
        """Return the seconds that the call may go on waiting."""
        if self._has(call, self._options.evaluator_scope):
            return float("inf")
        return since + self._options.hold - monotonic()

    def _error(self, model: str, progress: Progress) -> NotLoaded:
        if progress.reason is not None:
            return ModelLoadFailed(
                f"the model `{model[:200]}` could not be loaded: {progress.reason}", progress
            )
        doing = "loaded" if progress.download is None else "downloaded"
        return ModelColdStart(f"the model `{model[:200]}` is being {doing}", progress)

    def _has(self, call: Call, scope: str) -> bool:
        return call.principal is not None and scope in call.principal.scopes

    def release(self, model: str) -> None:
        """Let the calls for the model choose a worker: it is there, or will never be."""
        self._expected.pop(model, None)
        for ticket in self.waiting(model):
            self._end(ticket, None)

    def review(self, model: str) -> None:
        """End the waits for the model that will be in vain, as its load has failed."""
        progress = self._progress(model)
        if progress.reason is not None:
            for ticket in self.waiting(model):
                if progress.remaining > self._left(ticket.call, ticket.since):
                    self._end(ticket, self._error(model, progress))

    def close(self) -> None:
        """End all waits: the gateway shuts down, and no model comes any more."""
        self._closed = True
        for tickets in self._tickets.values():
            for ticket in tickets:
                self._end(ticket, GatewayDrains())

    def _end(self, ticket: Ticket, error: CallError | None) -> None:
        if not ticket.outcome.done():
            ticket.outcome.set_result(error)
