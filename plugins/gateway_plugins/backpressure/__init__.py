"""Backpressure: limits the calls in flight per worker; further calls wait in order."""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence

from starlette.routing import BaseRoute

from gateway import (
    BadRequest,
    Call,
    ControlRequest,
    Host,
    NotFound,
    Principal,
    Sample,
    StateKey,
    Worker,
    get_header,
    hookimpl,
)
from gateway_plugins.backpressure.dividing import part_of
from gateway_plugins.backpressure.gate import Gate
from gateway_plugins.backpressure.options import Options
from gateway_plugins.backpressure.order import Ticket
from gateway_plugins.backpressure.report import QueueReport, samples_of

MAX_PRIORITY = 1_000
"""Priorities range from -MAX_PRIORITY to HIGHEST."""

INTEGER = re.compile(rb"[+-]?[0-9]{1,4}")

PRIORITY: StateKey[int] = StateKey("backpressure.priority")


TICKET: StateKey[Ticket] = StateKey("backpressure")


class Backpressure:
    """The plugin."""

    after = ("circuit_breaker", "runtime", "session_admission", "trl", "weight_sync")

    Config = Options

    def __init__(self, config: Options) -> None:
        self._options = config
        self._ranks = _ranks(config)
        self._place = 0, 1
        self._gate: Gate | None = None

    def report(self) -> QueueReport:
        """Return the current queue and its counts.

        Raises NotFound before the gateway has started.
        """
        if self._gate is None:
            raise NotFound("the gateway has not begun yet, so that nobody can wait")
        return self._gate.report()

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [gateway.control("/admin/queue", scope="monitor", GET=self._show)]

    @hookimpl
    def samples(self) -> Iterable[Sample]:
        return () if self._gate is None else samples_of(self._gate.report())

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._place = gateway.peers.index, gateway.peers.count
        gate = self._gate = Gate(part_of(self._options, *self._place), gateway.workers)
        gate.open()
        try:
            yield
        finally:
            gate.close()

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        part = part_of(config, *self._place)
        self._options, self._ranks = config, _ranks(config)
        if self._gate is not None:
            self._gate.set_options(part)

    @hookimpl
    def admit(self, call: Call) -> None:
        if not (self._ranks and self._may_rank(call.principal)):
            return
        value = get_header(call.headers, self._options.priority_header.lower().encode())
        if value is not None:
            call.state[PRIORITY] = _priority(value, self._options.priority_header)

    @hookimpl
    def observe(self, call: Call) -> Ticket | None:
        gate = self._gate
        if gate is None:
            return None
        priority = call.state.get(PRIORITY, 0) if self._ranks else 0
        ticket = call.state[TICKET] = gate.ticket(call, priority)
        return ticket

    @hookimpl
    def filter_workers(
        self, call: Call, workers: Sequence[Worker]
    ) -> Sequence[Worker] | Awaitable[Sequence[Worker]]:
        ticket, gate = call.state.get(TICKET), self._gate
        return workers if ticket is None or gate is None else gate.enter(ticket, workers)

    def _may_rank(self, principal: Principal | None) -> bool:
        options = self._options
        if options.priority_for_all or principal is None:
            return options.priority_for_all
        return options.priority_scope in principal.scopes or principal.id in options.priority_ids

    async def _show(self, _: ControlRequest) -> QueueReport:
        return self.report()


def _ranks(options: Options) -> bool:
    """Whether any call may have a priority."""
    named = options.priority_scope is not None or options.priority_ids
    return bool(named) or options.priority_for_all


def _priority(value: bytes, header: str) -> int:
    if INTEGER.fullmatch(value) and abs(int(value)) <= MAX_PRIORITY:
        return int(value)
    raise BadRequest(
        f"{header} is an integer from {-MAX_PRIORITY} to {MAX_PRIORITY}, higher first",
        param=header,
        code="invalid_priority",
    )
