"""All runtimes of one gateway, and what their owners share."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from time import monotonic

import msgspec

from gateway import NOT_JSON, Call, CallError, ChooseAgain, Host, Sample, Worker
from gateway_plugins.runtime.holding.errors import Progress
from gateway_plugins.runtime.holding.holding import Holding
from gateway_plugins.runtime.loading.load import Loader
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.options import Options
from gateway_plugins.runtime.owning.activity import Activity
from gateway_plugins.runtime.owning.demand import Wants
from gateway_plugins.runtime.owning.lease import Lease
from gateway_plugins.runtime.owning.owner import Owner, Parts
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.saved import Saved
from gateway_plugins.runtime.policy.view import Demand
from gateway_plugins.runtime.report import Tally

UNREACHED = frozenset(("upstream_connect_failed", "upstream_connect_timeout", "upstream_closed"))
"""Codes of the errors of an engine that is gone, or has just gone."""


class Fleet:
    """The runtimes of the options, between entry and exit of `running`."""

    def __init__(self, gateway: Host, options: Options) -> None:
        self.options = options
        self.memory = Memory(gateway.storage, options.models, options.restarts)
        self._gateway = gateway
        self._models = {model.name: model for model in options.models}
        self._activity = Activity(frozenset(self._models))
        self.holding = Holding(options, self._wake, self.progress)
        self._wants = Wants(gateway, self.holding, self._activity, self.memory)
        self._tally = Tally(frozenset(self._models))
        self._lease = Lease(gateway)
        self._parts = Parts(
            gateway=gateway,
            options=options,
            models=self._models,
            memory=self.memory,
            holding=self.holding,
            wants=self._wants,
            loader=Loader(gateway, options),
            tally=self._tally,
        )
        self.owners: Sequence[Owner] = ()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the runtimes between entry and exit. Raises StorageError."""
        await self.memory.read()
        self.owners = [await self._owner(index) for index in range(len(self.options.runtimes))]
        workers = self._gateway.workers
        workers.set_loadable(frozenset(self._models))
        workers.troubled.append(self._note_trouble)
        task = asyncio.create_task(self._own())
        try:
            yield
        finally:
            self.holding.close()
            workers.troubled.remove(self._note_trouble)
            workers.set_loadable(frozenset())
            task.cancel()
            await asyncio.wait([task])
            await self._parts.loader.close()

    async def _own(self) -> None:
        """Run the owners as soon as no other gateway has the runtimes."""
        async with self._lease.held(), asyncio.TaskGroup() as group:
            for owner in self.owners:
                group.create_task(owner.run())

    async def _owner(self, index: int) -> Owner:
        runtime = self.options.runtimes[index]
        saved = _saved(await self.memory.saved(runtime.name))
        policy = Policy(
            self.options.rules, runtime.realtime, saved, now=monotonic(), unix=time.time()
        )

        def elsewhere() -> frozenset[str]:
            others = (one.state.model for one in self.owners if one.runtime is not runtime)
            return frozenset(model for model in others if model is not None)

        return Owner(runtime, policy, self._parts, elsewhere)

    def _wake(self, model: str) -> None:
        for owner in self.owners:
            if model in owner.models:
                owner.wake()

    # calls

    def choose(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Note that a call goes to one of these workers."""
        if call.source != "batch":
            self._activity.note(call.model)
        return workers

    async def wait(self, call: Call) -> Sequence[Worker]:
        """Wait for the call's model. Raises ChooseAgain, NotLoaded."""
        model = self._gateway.workers.called(call.model) if call.model else self._usual()
        if model not in self._models:
            return ()
        if self._gateway.workers.serving(model).fit:
            raise ChooseAgain  # it came while other plugins filtered
        await self.holding.wait(call, model)
        return ()

    def _usual(self) -> str:
        """Return the model of calls that name none."""
        realtime = (one.realtime for one in self.options.runtimes if one.realtime is not None)
        return next(realtime, self.options.models[0].name)

    def _note_trouble(self, worker: Worker, error: CallError) -> None:
        """Doubt an engine that could not be reached."""
        if error.code in UNREACHED:
            for owner in self.owners:
                owner.doubt(worker)

    def progress(self, model: str) -> Progress:
        """Return what becomes of a model, at the runtime that is nearest to having it."""
        known, now = self.memory.of(model), monotonic()
        able = [one for one in self.owners if model in one.models]
        at = next((one.state for one in able if model in (one.state.model, one.state.next)), None)
        load = self.memory.load_seconds(model)
        barred = max(known.until - time.time(), 0.0)
        if at is not None and at.phase == "loading":
            remaining = max(load - (now - at.since), 1.0)
        else:
            remaining = barred + load
        since = min((one.state.since for one in able), default=now) if at is None else at.since
        return Progress(
            phase="waiting" if at is None else at.phase,
            elapsed=now - since,
            remaining=remaining,
            reason=known.reason,
        )

    # for operators

    @property
    def is_owner(self) -> bool:
        """Whether this gateway owns the runtimes, and no other one."""
        return self._lease.is_held

    def demands(self) -> dict[str, Demand]:
        """Return what is wanted of each model, by its name."""
        found: dict[str, Demand] = {}
        for owner in self.owners:
            for name, demand in owner.view().demands.items():
                if name not in found or demand.in_flight:
                    found[name] = demand
        return dict(sorted(found.items()))

    async def forgive(self, model: str) -> None:
        """Forget the failures of a model, and look whether it is wanted. Raises StorageError."""
        await self.memory.forgive(model)
        self._wake(model)

    def problem(self) -> str | None:
        """Return what is wrong, in a few words that anybody may read."""
        failed = [one for one in self.owners if one.state.phase == "failed"]
        if failed:
            return f"{len(failed)} of {len(self.owners)} runtimes have no engine: a load failed"
        return None

    def samples(self) -> Iterator[Sample]:
        yield from self._tally.samples()
        yield _gauge("llm_held_calls", len(self.holding), "Calls that wait for their model.")
        ready = all(one.state.phase == "hot" for one in self.owners)
        yield _gauge("llm_runtime_ready", float(ready), "Whether every runtime has its model.")
        for owner in self.owners:
            labels = {"runtime": owner.runtime.name}
            tokens = owner.policy.tokens(monotonic())
            help_ = "Evictions of the realtime model that are left."
            yield _gauge("llm_token_bucket_remaining", tokens, help_, labels)
            model = owner.state.model
            if owner.state.phase == "hot" and model is not None:
                labels = {**labels, "model": self._tally.label(model)}
                yield _gauge("llm_current_model_info", 1.0, "The model of the runtime.", labels)


def _saved(content: str | None) -> Saved | None:
    """Return what the policy has kept; None if there is nothing, or if it cannot be read."""
    try:
        return None if content is None else msgspec.json.decode(content, type=Saved)
    except NOT_JSON:
        return None


def _gauge(name: str, value: float, help_: str, labels: dict[str, str] | None = None) -> Sample:
    return Sample(name, "gauge", value, help_, labels or {}, "max")
