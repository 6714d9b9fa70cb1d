"""Deadlines of the waits: all calls that have one wait equally long, so one timer is enough."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from gateway_plugins.backpressure.order import Ticket


class Deadlines:
    """Calls `expire` with each ticket `seconds` after it was added, unless it was dropped."""

    def __init__(self, seconds: float, expire: Callable[[Ticket], None]) -> None:
        self.seconds = seconds
        self._expire = expire
        self._due: OrderedDict[Ticket, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._due

    def add(self, ticket: Ticket, since: float) -> None:
        """Note that the ticket waits since that time, which is not before that of any other."""
        self._due[ticket] = since + self.seconds
        if self._timer is None:
            self._set(self.seconds)

    def end(self, ticket: Ticket) -> None:
        """Let the wait of a ticket that is not here end soon: its time is over."""
        self._due[ticket] = float("-inf")
        self._due.move_to_end(ticket, last=False)
        if self._timer is not None:
            self._timer.cancel()
        self._set(0)

    def drop(self, ticket: Ticket) -> None:
        """Forget the ticket; do nothing if it is not here."""
        self._due.pop(ticket, None)

    def close(self) -> None:
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = monotonic()
        while self._due:
            ticket, due = next(iter(self._due.items()))
            if due > now:
                self._set(due - now)
                return
            del self._due[ticket]
            self._expire(ticket)
