"""Counts calls and tokens of each key, in the transaction that stores the call's trace.

In `ledger`, `row.py` turns a call into a row and `model_names.py` limits the number of model names;
`schema.py` has the tables, `sums.py` adds rows to the sums, and `retention.py` runs it and deletes
old rows. `journal` is the file that survives a gateway that dies: `in_flight.py` records the calls
in flight there, and `recovery.py` counts the calls that dead gateways left there. In `report`,
`queries.py` and `keys.py` return sums, for `routes.py` and `commands.py`; `verify.py` compares the
rows with the traces, using `expected.py`; `runs.py` has the usage of runs. `panels.py` has the
tables for people.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence

from starlette.routing import BaseRoute

from gateway import (
    Answer,
    Call,
    Host,
    Migrations,
    Outcome,
    Panel,
    Sample,
    Storage,
    StorageError,
    hookimpl,
)
from gateway_plugins.usage.journal.in_flight import Flight, begun
from gateway_plugins.usage.journal.recovery import Recovery
from gateway_plugins.usage.ledger.model_names import MAX_MODELS, Models
from gateway_plugins.usage.ledger.retention import Keep, Upkeep
from gateway_plugins.usage.ledger.row import MAX_NAME, ROW_SIZE, Ledger, row_of
from gateway_plugins.usage.ledger.runs import ROW_SIZE as RUN_SIZE
from gateway_plugins.usage.ledger.runs import Runs, run_row
from gateway_plugins.usage.ledger.schema import MIGRATIONS
from gateway_plugins.usage.options import Options
from gateway_plugins.usage.panels import UsagePanels
from gateway_plugins.usage.report import queries
from gateway_plugins.usage.report.calls import CallsRoute
from gateway_plugins.usage.report.routes import OWN_PATH, KeyUsageRoute, own_answer
from gateway_plugins.usage.report.runs import RunUsageRoute

log = logging.getLogger("gateway.usage")


class KeyUsage:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config
        self._ledger = Ledger()
        self._runs = Runs()
        self.models = Models()
        self._gateway: Host | None = None
        self._storage: Storage | None = None
        self._in_memory = False
        self._upkeep: Upkeep | None = None
        self._flight: Flight | None = None
        self._recovery: Recovery | None = None

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self.config = config
        if self._upkeep is not None:
            self._upkeep.keep = _keep(config)

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        self._gateway = gateway
        keys, calls = KeyUsageRoute(gateway), CallsRoute(gateway)
        return [
            gateway.control("/monitor/key_usage", scope="monitor", GET=keys.show),
            gateway.control("/monitor/calls", scope="monitor", GET=calls.show),
            gateway.control("/monitor/run_usage", scope="monitor", GET=RunUsageRoute(gateway).show),
        ]

    @hookimpl
    def panels(self, gateway: Host) -> Sequence[Panel]:
        return UsagePanels(gateway.storage).all()

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._storage = gateway.storage
        self._in_memory = gateway.config.storage.in_memory
        self._upkeep = Upkeep(gateway.storage, _keep(self.config))
        self._recovery = Recovery(gateway.storage, self.models)
        with self._journalled(gateway):
            keeping = asyncio.create_task(self._run(gateway, self._upkeep, self._recovery))
            try:
                yield
            finally:
                keeping.cancel()

    @contextlib.contextmanager
    def _journalled(self, gateway: Host) -> Iterator[None]:
        self._flight = flight = begun(gateway)
        if flight is None:
            yield
            return
        self._ledger.ended = flight.ended
        noting = asyncio.create_task(flight.run())
        try:
            yield
        finally:
            noting.cancel()
            flight.close()

    async def _run(self, gateway: Host, upkeep: Upkeep, recovery: Recovery) -> None:
        """Learn the known models in the background: start-up must not wait for a large ledger."""
        try:
            self.models.learn(await gateway.storage.read(lambda db: queries.models(db, MAX_MODELS)))
        except StorageError as error:
            log.error("the models counted before are not known: %s", error)
        if self._in_memory:
            await upkeep.run()
            return
        # First of all: the upkeep deletes rows, which show that a call was counted.
        await recovery.run_once()
        async with asyncio.TaskGroup() as group:
            group.create_task(recovery.run())
            group.create_task(upkeep.run())

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None]:
        call.count_tokens()
        return call.inject("usage")

    @hookimpl
    def handle(self, call: Call) -> Awaitable[Answer] | None:
        if call.path != OWN_PATH or call.method != "GET" or self._storage is None:
            return None
        return own_answer(self._storage, self._own_key(call))

    @hookimpl
    def observe(self, call: Call) -> None:
        if self._flight is not None and (key := self._payer(call)) is not None:
            self._flight.begin(call, key)

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        flight = self._flight
        begun = None if flight is None else flight.underway.pop(call, None)
        if begun is not None:
            call_id, key, slot = begun.id, begun.key, begun.slot
        elif (payer := self._payer(call)) is not None:
            call_id, key, slot = bytes.fromhex(call.trace_id), payer, None
        else:
            return
        row = row_of(call, call_id, outcome, key, self.models.of(call, outcome))
        # If something else of the call, such as its trace, has to be committed before the call
        # ends, so is the row. Else a row that survives the process in the journal, or never will,
        # may wait. The end of a call whose work may run again is known only with its commit.
        waits = call.waits_for_commit or call.runs_again is not None
        kept = flight is not None and not waits and flight.keep(row, slot)
        call.store(self._ledger, row, ROW_SIZE, lazy=kept or self._in_memory)
        if call.run_id is not None:
            named = run_row(call_id, call.run_id)
            call.store(self._runs, named, RUN_SIZE, lazy=kept or self._in_memory)

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        help_ = "Calls whose usage is committed."
        yield Sample("gateway_usage_calls_total", "counter", self._ledger.committed, help_)
        help_ = "Calls whose usage could not be stored."
        yield Sample("gateway_usage_calls_lost_total", "counter", self._ledger.gone, help_)
        help_ = "Calls that were in flight when a gateway died, counted by this one."
        counted = 0 if self._recovery is None else self._recovery.counted
        yield Sample("gateway_usage_calls_recovered_total", "counter", counted, help_)
        help_ = "Calls for which the journal of those in flight had no room."
        unnoted = 0 if self._flight is None else self._flight.unnoted
        yield Sample("gateway_usage_calls_not_journalled_total", "counter", unnoted, help_)

    def _payer(self, call: Call) -> str | None:
        """Return the key that the call is counted for, None if it is not counted.

        That is a call that nobody authenticated, and GET /v1/usage.
        """
        if call.path == OWN_PATH and call.method == "GET":
            return None
        if call.principal is not None:
            return call.principal.id[:MAX_NAME]
        unknown = not call.internal and self._gateway is not None and self._gateway.authenticates
        return None if unknown else self.config.internal_id

    def _own_key(self, call: Call) -> str:
        found = self.config.internal_id if call.principal is None else call.principal.id
        return found[:MAX_NAME]


def _keep(config: Options) -> Keep:
    return Keep(config.keep_days, config.keep_calls_days)
