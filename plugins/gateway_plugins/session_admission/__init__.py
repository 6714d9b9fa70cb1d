"""Admits sessions to workers: at most so many are hot at each, others wait between their turns.

A session is hot at a worker from its first turn there until some time after its last one: for that
time the engine is to keep the computed prefix in its cache. `places.py` counts the hot sessions,
`line.py` has the calls that wait, `admission.py` joins them; none of these has a clock.
`waiting.py` lets calls wait.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence

from starlette.routing import BaseRoute

from gateway import (
    Call,
    ControlRequest,
    Host,
    NotFound,
    Outcome,
    Sample,
    StateKey,
    Worker,
    get_header,
    hookimpl,
)
from gateway_plugins.session_admission.line import Ticket
from gateway_plugins.session_admission.options import Options, part_of
from gateway_plugins.session_admission.places import SessionKey
from gateway_plugins.session_admission.report import AdmissionReport, samples_of
from gateway_plugins.session_admission.waiting import Gate

TICKET: StateKey[Ticket] = StateKey("session_admission")


class SessionAdmission:
    """The plugin."""

    after = ("sessions", "circuit_breaker", "runtime", "trl", "weight_sync")

    Config = Options

    def __init__(self, config: Options) -> None:
        self._options = config
        self._place = 0, 1
        self._gate: Gate | None = None

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [gateway.control("/admin/admission", scope="monitor", GET=self._show)]

    @hookimpl
    def samples(self) -> Iterable[Sample]:
        return () if self._gate is None else samples_of(self._gate.report())

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._place = gateway.peers.index, gateway.peers.count
        gate = self._gate = Gate(part_of(self._options, *self._place), gateway)
        gateway.workers.changed.append(gate.look)
        try:
            yield
        finally:
            gateway.workers.changed.remove(gate.look)
            gate.close()

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        part = part_of(config, *self._place)
        self._options = config
        if self._gate is not None:
            self._gate.set_options(part)

    @hookimpl
    def filter_workers(
        self, call: Call, workers: Sequence[Worker]
    ) -> Sequence[Worker] | Awaitable[Sequence[Worker]]:
        gate, api = self._gate, call.api
        if gate is None or call.session_id is None or api is None or not api.generates:
            return workers
        ticket = call.state.get(TICKET)
        if ticket is None:
            ticket = call.state[TICKET] = gate.ticket(self._key(call, gate))
        return gate.enter(call, ticket, workers)

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        ticket, gate = call.state.get(TICKET), self._gate
        if ticket is not None and gate is not None:
            gate.end(call, ticket, final=self._is_final(call))

    @hookimpl
    def session_ended(self, session_id: str, owner: str | None) -> None:
        if self._gate is not None:
            self._gate.forget(session_id, owner)

    def _key(self, call: Call, gate: Gate) -> SessionKey:
        principal = "" if call.principal is None else call.principal.id
        model = call.model if gate.mixed else None
        return SessionKey(principal, call.session_id or "", model or "")

    def _is_final(self, call: Call) -> bool:
        name = self._options.final_header
        value = None if name is None else get_header(call.headers, name.lower().encode("latin-1"))
        return value is not None and value.strip().lower() == b"true"

    async def _show(self, _: ControlRequest) -> AdmissionReport:
        if self._gate is None:
            raise NotFound("the gateway has not begun yet, so that no session is hot")
        return self._gate.report()
