"""The one task that owns a runtime: it looks, decides, and changes the model.

All wishes come to it as demand; nothing else starts or ends an engine. One step at a time is under
way: it makes room, loads a model, or clears away what an engine has left. A step that loads a
model which nobody needs any more is cancelled, and leaves nothing before the next begins.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from time import monotonic

import msgspec
from msgspec.structs import replace

from gateway import Host, Worker
from gateway_plugins.runtime.finishing import Keeping, finish, finished
from gateway_plugins.runtime.holding.holding import Holding
from gateway_plugins.runtime.loading.failures import Failure, failure
from gateway_plugins.runtime.loading.load import PROBE, Failed, Loaded, Loader
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.models.shelf import Shelf
from gateway_plugins.runtime.options import Model, Options, Runtime
from gateway_plugins.runtime.owning.decisions import Decisions
from gateway_plugins.runtime.owning.demand import Wants
from gateway_plugins.runtime.owning.draining import Draining
from gateway_plugins.runtime.owning.listing import Listing
from gateway_plugins.runtime.owning.state import State
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.view import Decision, View
from gateway_plugins.runtime.report import Tally

log = logging.getLogger("gateway.runtime")

LOOK = 1.0
"""Seconds between two looks, if nothing happens."""

UNREACHED = frozenset(("upstream_connect_failed", "upstream_connect_timeout", "upstream_closed"))
"""Codes of the errors of an engine that is gone, or has just gone."""

SILENT = frozenset(("upstream_first_byte_timeout", "upstream_idle_timeout"))
"""Codes of the errors of an engine that hangs, or has too many calls."""

OWNER = "runtime"
"""Owner of the condition of a worker whose engine is in doubt, or makes room."""


class Parts(msgspec.Struct):
    """What the owners of all runtimes share; `options` and `models` change at a reload."""

    gateway: Host
    options: Options
    models: dict[str, Model]
    memory: Memory
    holding: Holding
    wants: Wants
    loader: Loader
    tally: Tally
    keeping: Keeping
    shelf: Shelf


class Owner:
    """`elsewhere` returns the models that other runtimes have, or load."""

    def __init__(
        self,
        runtime: Runtime,
        policy: Policy,
        parts: Parts,
        elsewhere: Callable[[], frozenset[str]],
    ) -> None:
        self.runtime = runtime
        self.policy = policy
        self.state = State(since=monotonic())
        self.decisions = Decisions(runtime.name)
        self._parts = parts
        self._elsewhere = elsewhere
        self._draining = Draining(parts.gateway, parts.wants)
        self._listing = Listing(parts.gateway.workers, runtime.name)
        self._loaded: Loaded | None = None
        self._step: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()

    @property
    def models(self) -> frozenset[str]:
        """The models that may be loaded here."""
        return frozenset(self.runtime.models) or frozenset(self._parts.models)

    @property
    def worker(self) -> Worker | None:
        """The worker of the present engine, None if there is no engine that answers."""
        return self._listing.worker

    @property
    def identity(self) -> str | None:
        """What tells the present engine from all others; None: there is none."""
        return None if self._loaded is None else self._loaded.engine.identity

    def wake(self) -> None:
        """Look at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Own the runtime until cancelled; nothing of its engine is left then."""
        try:
            await self._clear()
            while True:
                self._wanted.clear()
                try:
                    await self._look()
                except Exception:
                    log.exception("runtime %s cannot decide now", self.runtime.name)
                    await asyncio.sleep(LOOK)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._wanted.wait()
        finally:
            await finish(self._end())

    async def _clear(self) -> None:
        """End what a killed gateway has left; no engine can be started before that has gone."""
        while True:
            try:
                return await self._parts.loader.clear(self.runtime)
            except Exception:
                log.exception("runtime %s cannot be cleared now", self.runtime.name)
                await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        self._look_at_worker()
        if self._parts.gateway.draining:
            return
        await self._parts.wants.refresh()
        view = self.view()
        decision = self._removal() or self.policy.decide(view)
        if decision.cause is not None:
            self.policy.switched(view, decision)
            self._begin(decision)
        if decision.cause is not None or self.policy.unsaved:
            self._save()

    def _look_at_worker(self) -> None:
        """Keep the engine's worker in the registry, and doubt the engine if its probes fail.

        One that is slow for a while may be busy.
        """
        if self._loaded is not None and self.state.phase == "hot":
            self._listing.follow(self._loaded)
        worker = self._listing.worker
        failing = None if worker is None else worker.conditions.get(PROBE)
        if worker is not None and failing is not None:
            late = time.time() - failing.since > self._parts.loader.doubt
            if failing.blocks or late:
                self.doubt(worker)
        if worker is not None and self._is_idle_and_silent(worker):
            self.doubt(worker)

    def _is_idle_and_silent(self, worker: Worker) -> bool:
        """Whether the engine may hang: one that has calls may only have too many."""
        return self._loaded is not None and self._loaded.silent and not worker.in_flight

    def _removal(self) -> Decision | None:
        """Return the decision to end a model that is not among those of the options any more."""
        state = self.state
        model = state.next if state.phase == "draining" else state.model
        if model is None or model in self.models or state.phase in ("idle", "failed"):
            return None
        return Decision(None, "return", f"{model} is not in the configuration any more")

    def _begin(self, decision: Decision) -> None:
        """Begin the step of a decision; the state changes at once, so that none is taken twice."""
        before, self._step = self._step, None
        if before is not None:
            before.cancel()
        if self._is_there(decision.model):
            self._stay(decision)
            return
        left = self.state
        self._enter(self._next(decision), decision.reason)
        self._step = asyncio.create_task(self._switch(before, decision, left))

    def _is_there(self, model: str | None) -> bool:
        """Whether the model is there and was to make room, but still has its worker."""
        loaded = self._loaded
        return loaded is not None and self.worker is not None and loaded.model.name == model

    def _next(self, decision: Decision) -> State:
        """Return the state in which the step of a decision begins."""
        now, state, for_batch = monotonic(), self.state, decision.cause in ("batch", "starving")
        if self._loaded is not None:
            return replace(state, phase="draining", next=decision.model, since=now)
        if decision.model is None:
            return State(since=now)
        return State(phase="loading", model=decision.model, since=now, for_batch=for_batch)

    def view(self) -> View:
        """Return what the policy sees now."""
        state, here = self.state, self.worker
        running = 0 if here is None else self._parts.wants.running()[here.id]
        others = self._elsewhere()
        return View(
            now=monotonic(),
            phase=state.phase,
            model=state.next if state.phase == "draining" else state.model,
            since=state.since,
            began_for_batch=state.for_batch,
            demands={
                name: self._parts.wants.of(
                    name, running if name == state.model else 0, elsewhere=name in others
                )
                for name in self.models
            },
        )

    def _save(self) -> None:
        content = msgspec.json.encode(self.policy.saved(monotonic(), time.time())).decode()
        self._parts.keeping.keep(self._parts.memory.save(self.runtime.name, content))

    def _enter(self, state: State, reason: str) -> None:
        self.state = state
        self.decisions.note(state, reason)

    # one step

    async def _switch(
        self, before: "asyncio.Task[None] | None", decision: Decision, left: State
    ) -> None:
        try:
            if before is not None:
                await finished(before)
            if self._loaded is not None:
                await self._make_room(self._loaded, decision, left)
                self._enter(self._next(decision), decision.reason)
            if decision.model is not None:
                await self._load(decision.model)
        except Exception as error:
            log.exception("runtime %s could not be changed", self.runtime.name)
            words = f"the gateway failed: {error!r}"
            self._note_failure(decision.model, failure("runtime_start_exception", words))
        finally:
            self.wake()

    def _stay(self, decision: Decision) -> None:
        """Keep the model that was to make room: it is wanted again before it has gone."""
        assert self.worker is not None
        self.policy.called_off(monotonic())
        self._enter(replace(self.state, phase="hot", next=None), decision.reason)
        self.worker.clear(OWNER)

    async def _make_room(self, loaded: Loaded, decision: Decision, left: State) -> None:
        """Let the calls of the engine end, and then the engine itself."""
        if self.worker is not None:
            self.worker.mark(OWNER, "draining", decision.reason)
            await self._drain(self.worker, loaded)
        self._listing.leave()
        await self._stop(loaded)
        if decision.model is not None:
            self._parts.tally.switched()
        if left.for_batch:
            self._parts.tally.segment(monotonic() - left.since)
            if decision.cause == "realtime":
                self._parts.tally.preempted()

    async def _drain(self, worker: Worker, loaded: Loaded) -> None:
        await self._draining.drain(worker, loaded.model.name, self._parts.options.rules)

    async def _load(self, name: str) -> None:
        model, memory, began = self._parts.models.get(name), self._parts.memory, monotonic()
        if model is None:  # a reload has just removed it
            self._enter(State(since=began), f"{name} is not in the configuration any more")
            return
        generation = await memory.next_generation(self.runtime.name)
        memory.starts(name)
        self.state = replace(self.state, generation=generation)
        try:
            loaded = await self._parts.loader.load(model, self.runtime, generation)
        except Failed as failed:
            self._note_failure(name, failed.failure)
            return
        self._loaded = loaded
        seconds = monotonic() - began
        self._parts.tally.loaded(name, seconds)
        self._parts.keeping.keep(memory.loaded(name, seconds))
        self._parts.shelf.used(name)
        hot = replace(self.state, phase="hot", since=monotonic())
        self._enter(hot, f"the engine answers, after {seconds:.1f} s")
        self._watch = asyncio.create_task(self._await_end(loaded))
        waiting = self._parts.holding.waiting(name)
        self._listing.enter(loaded)
        # Those that have waited get their slots before another model may be wanted.
        while self._parts.holding.have(waiting):  # noqa: ASYNC110  they run in the next turn
            await asyncio.sleep(0)

    async def _stop(self, loaded: Loaded) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._parts.shelf.used(loaded.model.name)
        await self._parts.loader.stop(loaded)
        if self._loaded is loaded:
            self._loaded = None

    # failures

    async def _await_end(self, loaded: Loaded) -> None:
        """Wait until the engine has ended by itself, or is lost, which is a failure.

        One that makes room already is ended by the step that is under way.
        """
        found = await self._parts.loader.ended(loaded)
        self._listing.leave()
        if self.state.phase == "draining":
            return
        self._loaded, self._watch = None, None
        self._step = asyncio.create_task(self._clear_away(self._step, loaded, found))
        self._note_failure(loaded.model.name, found)
        self.wake()

    async def _clear_away(
        self, before: "asyncio.Task[None] | None", loaded: Loaded, found: Failure
    ) -> None:
        if before is not None:
            await finished(before)
        await finish(self._parts.loader.end(loaded, found.reason))

    def _note_failure(self, name: str | None, found: Failure) -> None:
        text, generation = f"{found.reason}: {found.text}", self.state.generation
        if name is not None:
            self._parts.tally.failed(name, found.reason)
            memory = self._parts.memory
            self._parts.keeping.keep(memory.failed(name, found.reason, found.text, found.kept))
        state = State(
            phase="failed", model=name, since=monotonic(), generation=generation, reason=text
        )
        self._enter(state, text)
        if name is not None:
            self._parts.holding.review(name)

    def doubt(self, worker: Worker) -> None:
        """The engine was not reached, or was silent: no more calls until it answers again."""
        loaded = self._loaded
        if loaded is not None and worker is self.worker and OWNER not in worker.conditions:
            reason = "it was silent" if loaded.silent else "it could not be reached"
            worker.mark(OWNER, "suspect", reason)
            self._parts.loader.check(loaded, worker, lambda: _trust(worker))

    def note_trouble(self, worker: Worker, code: str) -> None:
        """A call at the worker has ended with this error."""
        if code in UNREACHED:
            self.doubt(worker)
        elif code in SILENT and self._loaded is not None and worker is self.worker:
            self._loaded.silent = True

    async def _end(self) -> None:
        if self._step is not None:
            self._step.cancel()
            await finished(self._step)
        loaded, worker = self._loaded, self.worker
        if loaded is not None and worker is not None and worker.in_flight:
            worker.mark(OWNER, "draining", "the plugin runtime ends")
            await self._drain(worker, loaded)
        self._listing.leave()
        if self._watch is not None:
            self._watch.cancel()
        if loaded is not None:
            await self._parts.loader.end(loaded)


def _trust(worker: Worker) -> None:
    """Let an engine that was in doubt have calls again, unless it makes room meanwhile."""
    condition = worker.conditions.get(OWNER)
    if condition is not None and condition.state == "suspect":
        worker.clear(OWNER)
