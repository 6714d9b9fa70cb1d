"""All runtimes of one gateway, and what their owners share."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from time import monotonic

import msgspec

from gateway import (
    NOT_JSON,
    Call,
    CallError,
    ChooseAgain,
    Host,
    Sample,
    StateKey,
    StorageError,
    Worker,
)
from gateway_plugins.runtime.finishing import Keeping
from gateway_plugins.runtime.holding.errors import Progress
from gateway_plugins.runtime.holding.holding import Holding
from gateway_plugins.runtime.loading.load import Loader
from gateway_plugins.runtime.loading.log import EngineLog
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.memory.reported import failures, is_renewed, lasting
from gateway_plugins.runtime.models.shelf import Shelf
from gateway_plugins.runtime.models.showing import cold_start
from gateway_plugins.runtime.models.wishing import busy, wishes
from gateway_plugins.runtime.options import Options, Runtime
from gateway_plugins.runtime.owning.activity import Activity
from gateway_plugins.runtime.owning.demand import Wants
from gateway_plugins.runtime.owning.lease import Lease
from gateway_plugins.runtime.owning.owner import Owner, Parts
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.saved import Saved
from gateway_plugins.runtime.policy.view import Demand
from gateway_plugins.runtime.report import Tally

log = logging.getLogger("gateway.runtime")

LOOK = 0.25
"""Seconds between two looks at whether the gateway drains."""

SEEN: StateKey[int] = StateKey("runtime.seen")
"""How often the workers had changed when the call was last sent to choose among them again."""


class Fleet:
    """The runtimes of the options, between entry and exit of `running`."""

    def __init__(self, gateway: Host, options: Options) -> None:
        self.options = options
        self.memory = Memory(gateway.storage, options.models, options.restarts)
        self._gateway = gateway
        self._models = {model.name: model for model in options.models}
        self.activity = Activity(frozenset(self._models))
        self.holding = Holding(options, self._wake, self.progress)
        self._tally = Tally(frozenset(self._models))
        self._keeping = Keeping()
        self.shelf = self._shelf()
        self._wants = Wants(
            gateway, self.holding, self.activity, self.memory, self.shelf.is_ready, self._renew
        )
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
            keeping=self._keeping,
            shelf=self.shelf,
        )
        self._changes = 0
        self.owners: Sequence[Owner] = ()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the runtimes between entry and exit. Raises StorageError."""
        await self.memory.read()
        await self.shelf.read()
        runtimes = self.options.runtimes
        self.owners = [self._owner(one, await self._policy(one)) for one in runtimes]
        workers = self._gateway.workers
        for runtime in runtimes:
            if workers.remove(runtime.name) is not None:
                words = "worker %s is removed: the engine of the runtime gets its id"
                log.warning(words, runtime.name)  # kept from an earlier run, or an operator's
        workers.reserved = {
            one.name: "the engine of a runtime of the plugin runtime" for one in runtimes
        }
        workers.set_loadable(frozenset(self._models), now=False)
        workers.load_failures = lambda: failures(self.memory, self._models)
        workers.unloadable = lambda: lasting(self.memory, self._models)
        workers.changed.append(self._note_change)
        workers.troubled.append(self._note_trouble)
        tasks = [asyncio.create_task(one) for one in (self._own(), self._await_drain())]
        try:
            yield
        finally:
            self.holding.close()
            workers.troubled.remove(self._note_trouble)
            workers.changed.remove(self._note_change)
            workers.load_failures, workers.unloadable = dict, dict
            workers.reserved = {}
            workers.set_loadable(frozenset(self._models), now=False)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._parts.loader.close()
            await self._keeping.close()
            workers.set_loadable(frozenset())  # the last, for it lets the plugin be added again

    async def _own(self) -> None:
        """Run the owners as soon as no other gateway has the runtimes."""
        try:
            async with self._lease.held(), asyncio.TaskGroup() as group:
                await self._catch_up()
                self._set_loadable()
                group.create_task(self.shelf.run())
                for owner in self.owners:
                    group.create_task(owner.run())
        except Exception:
            log.exception("no engine can be started: the runtimes have no owner any more")
            self._set_loadable()

    async def _catch_up(self) -> None:
        """Learn what the gateway that had the runtimes before has learnt meanwhile."""
        with contextlib.suppress(StorageError):  # what was read at the start counts
            await self.memory.read()
            await self.shelf.read()
            for owner in self.owners:
                owner.policy = await self._policy(owner.runtime)

    async def _await_drain(self) -> None:
        """End all waits as soon as the gateway drains: no model comes for them any more."""
        while not self._gateway.draining:  # noqa: ASYNC110  the gateway has no event for it
            await asyncio.sleep(LOOK)
        self.holding.close()

    async def _policy(self, runtime: Runtime) -> Policy:
        saved = _saved(await self.memory.saved(runtime.name))
        return self._policy_of(runtime, saved)

    def _policy_of(self, runtime: Runtime, saved: Saved | None) -> Policy:
        now, unix = monotonic(), time.time()
        return Policy(self.options.rules, runtime.realtime, saved, now=now, unix=unix)

    def _owner(self, runtime: Runtime, policy: Policy) -> Owner:
        def elsewhere() -> frozenset[str]:
            others = (one.state.coming for one in self.owners if one.runtime.name != runtime.name)
            return frozenset(model for model in others if model is not None)

        return Owner(runtime, policy, self._parts, elsewhere)

    def _set_loadable(self) -> None:
        models = frozenset(self._models)
        self._gateway.workers.set_loadable(models, now=self._lease.is_held)

    def set_options(self, options: Options) -> None:
        """Follow a reload: engines that run go on, unless their model is gone.

        What has changed of a model applies to the next start of its engine.
        """
        self.options = self._parts.options = options
        self._models = self._parts.models = {model.name: model for model in options.models}
        self.memory.set_options(options.models, options.restarts)
        self.activity.set_models(frozenset(self._models))
        self._tally.set_models(frozenset(self._models))
        self._parts.loader.set_options(options)
        self.shelf.set_options(options)
        self.holding.set_options(options)
        for owner, runtime in zip(self.owners, options.runtimes, strict=True):
            kept = owner.policy.saved(monotonic(), time.time())
            owner.runtime, owner.policy = runtime, self._policy_of(runtime, kept)
            owner.wake()
        self._set_loadable()
        for model in self.holding.models:
            if model not in self._models:
                self.holding.release(model)

    def _shelf(self) -> Shelf:
        return Shelf(
            self._gateway,
            self.options,
            self.memory,
            self._tally,
            self._keeping,
            wishes=self._wishes,
            in_use=self._in_use,
            told=self._note_disk,
        )

    def _wishes(self) -> list[str]:
        return wishes(self.demands(), [one.realtime for one in self.options.runtimes])

    def _in_use(self) -> set[str]:
        """Return the models that are wanted, there, or to come."""
        states = [(one.state.model, one.state.next) for one in self.owners]
        there = {name for pair in states for name in pair if name is not None}
        return {*self._wishes(), *busy(self.demands()), *there}

    def _renew(self, model: str) -> None:
        """Items were submitted for a model since it has failed."""
        if is_renewed(self.memory, model):
            log.info("model %s is tried again: items were submitted for it", model)
            self._keeping.keep(self.memory.forgive(model))

    def _note_disk(self, model: str) -> None:
        """A model is on the disk, or is not, or could not be downloaded."""
        self.holding.review(model)
        self._wake(model)

    def _wake(self, model: str) -> None:
        self.shelf.wake()
        for owner in self.owners:
            if model in owner.models:
                owner.wake()

    # calls

    def note(self, call: Call) -> None:
        """Note that a realtime call was admitted which may call its model by another name."""
        self.activity.note(self._model_of(call))

    async def wait(self, call: Call) -> Sequence[Worker]:
        """Wait for the call's model. Raises ChooseAgain, NotLoaded.

        Returns no worker if that would bring none: nobody can load the model, or the caller may not
        use the runtimes that can, or all workers that have it were left out by other plugins, or
        have failed the call.
        """
        model = self._model_of(call)
        if model not in self._models or not self._may_come(call, model):
            return ()
        fit = [one for one in self._gateway.workers.serving(model).fit if _may_use(call, one.id)]
        if not fit:
            await self.holding.wait(call, model)
        elif not set(fit).issubset(call.tried) and call.state.get(SEEN) != self._changes:
            call.state[SEEN] = self._changes
            raise ChooseAgain  # a worker may have come while other plugins filtered
        return ()

    def _model_of(self, call: Call) -> str:
        """Return the model that a call needs; of a generation that names none, the usual one."""
        model = call.model
        if model is not None:
            return self._gateway.workers.called(model)
        return self._usual() if call.api is not None and call.api.generates else ""

    def _may_come(self, call: Call, model: str) -> bool:
        """Whether the model can be loaded where the call may go."""
        return any(
            model in owner.models and _may_use(call, owner.runtime.name) for owner in self.owners
        )

    def _note_change(self) -> None:
        """Let calls choose that waited for a worker that is fit again, or has just come."""
        self._changes += 1
        for model in self.holding.models:
            if self._gateway.workers.serving(model).fit:
                self.holding.release(model)

    def _usual(self) -> str:
        """Return the model of calls that name none."""
        realtime = (one.realtime for one in self.options.runtimes if one.realtime is not None)
        return next(realtime, self.options.models[0].name)

    def _note_trouble(self, worker: Worker, error: CallError) -> None:
        for owner in self.owners:
            owner.note_trouble(worker, error.code)

    def progress(self, model: str) -> Progress:
        """Return what becomes of a model, at the runtime that is nearest to having it."""
        known, now = self.memory.of(model), monotonic()
        able = [one for one in self.owners if model in one.models]
        at = next((one.state for one in able if model in (one.state.model, one.state.next)), None)
        load = self.memory.load_seconds(model)
        if (download := self.shelf.progress(model)) is not None:
            return cold_start(download, load)
        barred = self.memory.seconds_barred(model)
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

    @property
    def loader(self) -> Loader:
        """What starts and ends the engines."""
        return self._parts.loader

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

    def logs(self) -> Mapping[str, EngineLog]:
        """Return the log of the newest start of each runtime that has had one, by its name."""
        return self._parts.loader.latest

    def problem(self) -> str | None:
        """Return what is wrong, in a few words that anybody may read."""
        if not self.is_owner:
            return "another gateway owns the runtimes, or has just done"
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


def _may_use(call: Call, worker_id: str) -> bool:
    """Whether the call's principal may use the worker of this id."""
    named = None if call.principal is None else call.principal.workers
    return named is None or worker_id in named


def _saved(content: str | None) -> Saved | None:
    """Return what the policy has kept; None if there is nothing, or if it cannot be read."""
    try:
        return None if content is None else msgspec.json.decode(content, type=Saved)
    except NOT_JSON:
        return None


def _gauge(name: str, value: float, help_: str, labels: dict[str, str] | None = None) -> Sample:
    return Sample(name, "gauge", value, help_, labels or {}, "max")
