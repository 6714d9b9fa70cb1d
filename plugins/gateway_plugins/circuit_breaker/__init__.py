"""Keeps calls away from workers that fail them, and brings workers back by a few trials.

After Envoy's outlier detection and HAProxy's `observe layer7`: the breaker watches the calls and
sends no requests of its own, which is the task of probes. Only faults of the worker count (see
`circuit.fault_of`): a caller that sends a wrong request, leaves or is too slow ejects no worker.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from time import monotonic
from typing import get_args

import msgspec

from gateway import Attempt, Call, Host, Sample, Worker, hookimpl
from gateway_plugins.circuit_breaker.circuit import NO_ACCESS, Circuit, Options, State, fault_of

log = logging.getLogger("gateway.circuit_breaker")

NAME = "circuit_breaker"


class Changes(msgspec.Struct):
    """Number of changes of each kind, over all workers.

    `spared`: `max_ejected_share` forbade one.
    """

    ejected: int = 0
    half_open: int = 0
    closed: int = 0
    spared: int = 0


class CircuitBreaker:
    """The plugin. `changes` counts what it did."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.changes = Changes()
        self._options = config
        self._circuits: dict[Worker, Circuit] = {}
        self._half_open: dict[Worker, Circuit] = {}
        self._timers: dict[Worker, asyncio.TimerHandle] = {}

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        def follow() -> None:
            self._follow(gateway.workers.all)

        gateway.workers.changed.append(follow)
        follow()
        try:
            yield
        finally:
            gateway.workers.changed.remove(follow)
            for worker in self._circuits:
                worker.clear(NAME)
            self._follow(())

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._options = config
        for circuit in self._circuits.values():
            circuit.set_options(config)

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = (
            "What the breaker did with workers; spared: it left one because of max_ejected_share."
        )
        for change, count in msgspec.structs.asdict(self.changes).items():
            labels = {"change": change}
            yield Sample("gateway_breaker_changes_total", "counter", count, help_, labels)
        help_ = "1 for the state that the worker's circuit is in."
        for worker, circuit in self._circuits.items():
            for state in get_args(State):
                is_it, labels = state == circuit.state, {"worker": worker.id, "state": state}
                yield Sample("gateway_breaker_state", "gauge", is_it, help_, labels, "max")

    @hookimpl
    def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        if not self._half_open:
            return workers
        return [worker for worker in workers if self._may_try(worker)]

    @hookimpl
    def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        worker, status = attempt.worker, attempt.status
        if worker not in self._circuits:
            return
        circuit, fault = self._circuits[worker], None
        if attempt.started < circuit.since:
            circuit.ended_earlier()
            return
        if attempt.error is not None or attempt.ending.fault or (status or 0) >= 500:
            fault = fault_of(attempt)
        if fault is not None:
            self._note_failure(worker, circuit, fault)
        elif status is not None and status not in NO_ACCESS:
            ended = attempt.ended
            if circuit.worked(monotonic() if ended is None else ended):
                self._close(worker, circuit)
            if call.attempts[0] is not attempt and status < 400:
                self._blame(call)

    def _blame(self, call: Call) -> None:
        """Record a failure of each worker that let nobody in for a call that another one took.

        Only then is it the key in the worker's settings that is wrong, and not the caller's.
        """
        for attempt in call.attempts:
            circuit = self._circuits.get(attempt.worker)
            refused = attempt.error is None and attempt.status in NO_ACCESS
            if refused and circuit is not None and attempt.started >= circuit.since:
                fault = f"status {attempt.status} to a call that another worker took"
                self._note_failure(attempt.worker, circuit, fault)

    def _follow(self, workers: Sequence[Worker]) -> None:
        """Track these workers, and forget all others."""
        if self._circuits.keys() == set(workers):
            return
        for gone in self._circuits.keys() - set(workers):
            self._half_open.pop(gone, None)
            if timer := self._timers.pop(gone, None):
                timer.cancel()
        known = self._circuits
        self._circuits = {one: known.get(one) or Circuit(self._options) for one in workers}

    def _may_try(self, worker: Worker) -> bool:
        circuit = self._half_open.get(worker)
        return circuit is None or circuit.has_room(worker.in_flight)

    def _note_failure(self, worker: Worker, circuit: Circuit, fault: str) -> None:
        if circuit.state == "ejected":
            return
        now = monotonic()
        reason = circuit.failed(now, fault)
        if reason is None:
            return
        if circuit.state == "closed" and not self._may_eject(worker):
            self._spare(worker, circuit, reason)
        else:
            self._eject(worker, circuit, reason)

    def _may_eject(self, worker: Worker) -> bool:
        """Whether enough other workers serve these models.

        Unfit and half-open ones do not count.
        """
        peers = [one for one in self._circuits if one.models == worker.models and one is not worker]
        lost = sum(not one.fit or one in self._half_open for one in peers)
        # In floating point, 0.29 * 100 is a little less than 29.
        return lost < math.floor(self._options.max_ejected_share * (len(peers) + 1) + 1e-9)

    def _spare(self, worker: Worker, circuit: Circuit, reason: str) -> None:
        if not circuit.spared:
            circuit.spared = True
            self.changes.spared += 1
            why = "not ejected: too many others for its models are (max_ejected_share)"
            log.warning("worker %s: %s; %s", worker.id, reason, why)

    def _eject(self, worker: Worker, circuit: Circuit, reason: str) -> None:
        circuit.eject(monotonic())
        self._half_open.pop(worker, None)
        self.changes.ejected += 1
        reason = f"{reason}; ejected for {circuit.cooldown:.3g} s"
        log.warning("worker %s: %s", worker.id, reason)
        loop = asyncio.get_running_loop()
        self._timers[worker] = loop.call_later(circuit.cooldown, self._try_again, worker, circuit)
        worker.mark(NAME, "ejected", reason)

    def _try_again(self, worker: Worker, circuit: Circuit) -> None:
        del self._timers[worker]
        circuit.open_half(monotonic(), worker.in_flight)
        self._half_open[worker] = circuit
        self.changes.half_open += 1
        reason = f"the cooldown is over; trials at a time: {self._options.max_trials}"
        log.info("worker %s: %s", worker.id, reason)
        worker.mark(NAME, "half_open", reason, blocks=False)

    def _close(self, worker: Worker, circuit: Circuit) -> None:
        circuit.close(monotonic())
        self._half_open.pop(worker, None)
        self.changes.closed += 1
        successes = self._options.required_successes
        log.info("worker %s: %d trials in a row went well; it is back", worker.id, successes)
        worker.clear(NAME)
