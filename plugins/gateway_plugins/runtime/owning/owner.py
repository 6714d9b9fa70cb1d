"""The one task that owns a runtime: it looks, decides, and changes the model.

All wishes come to it as demand; nothing else starts or ends an engine. One step at a time is under
way: it makes room, and loads a model. A step that loads a model which nobody needs any more is
cancelled, and leaves nothing of its engine before the next begins.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from time import monotonic

import msgspec
from msgspec.structs import replace

from gateway import Host, StorageError, Worker, WorkerSettings
from gateway_plugins.runtime.holding.holding import Holding
from gateway_plugins.runtime.loading.failures import Failure, failure
from gateway_plugins.runtime.loading.load import Failed, Loaded, Loader
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.options import Model, Options, Runtime
from gateway_plugins.runtime.owning.decisions import Decisions
from gateway_plugins.runtime.owning.demand import Wants
from gateway_plugins.runtime.owning.draining import Draining
from gateway_plugins.runtime.owning.state import State
from gateway_plugins.runtime.policy.policy import Policy
from gateway_plugins.runtime.policy.view import Decision, View
from gateway_plugins.runtime.report import Tally

log = logging.getLogger("gateway.runtime")

LOOK = 1.0
"""Seconds between two looks, if nothing happens."""

OWNER = "runtime"
"""Owner of the condition of a worker whose engine is in doubt, or makes room."""


class Parts(msgspec.Struct):
    """What the owners of all runtimes share."""

    gateway: Host
    options: Options
    models: dict[str, Model]
    memory: Memory
    holding: Holding
    wants: Wants
    loader: Loader
    tally: Tally


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
        self._may_load = frozenset(runtime.models) or frozenset(parts.models)
        self._draining = Draining(parts.gateway, parts.wants, parts.options.rules)
        self._loaded: Loaded | None = None
        self._worker: Worker | None = None
        self._step: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()

    @property
    def models(self) -> frozenset[str]:
        """The models that may be loaded here."""
        return self._may_load

    @property
    def worker(self) -> Worker | None:
        """The worker of the present engine, None if there is no engine that answers."""
        return self._worker

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
            await self._parts.loader.clear(self.runtime)
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
            await self._end()

    async def _look(self) -> None:
        await self._parts.wants.refresh()
        view = self.view()
        decision = self.policy.decide(view)
        if decision.cause is not None:
            self.policy.switched(view, decision)
            self._begin(decision)
            await self._save()

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
        return loaded is not None and self._worker is not None and loaded.model.name == model

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
        state, here = self.state, self._worker
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
                for name in self._may_load
            },
        )

    async def _save(self) -> None:
        content = self.policy.saved(monotonic(), time.time())
        with contextlib.suppress(StorageError):  # the storage reports it
            await self._parts.memory.save(self.runtime.name, msgspec.json.encode(content).decode())

    def _enter(self, state: State, reason: str) -> None:
        self.state = state
        self.decisions.note(state, reason)

    # one step

    async def _switch(
        self, before: "asyncio.Task[None] | None", decision: Decision, left: State
    ) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            if self._loaded is not None:
                await self._make_room(self._loaded, decision, left)
                self._enter(self._next(decision), decision.reason)
            if decision.model is not None:
                await self._load(decision.model)
        except Exception as error:
            log.exception("runtime %s could not be changed", self.runtime.name)
            words = f"the gateway failed: {error!r}"
            await self._note_failure(decision.model, failure("runtime_start_exception", words))
        finally:
            self.wake()

    def _stay(self, decision: Decision) -> None:
        """Keep the model that was to make room: it is wanted again before it has gone."""
        assert self._worker is not None
        self._worker.clear(OWNER)
        self._enter(replace(self.state, phase="hot", next=None), decision.reason)
        if self.state.model is not None:
            self._parts.holding.release(self.state.model)

    async def _make_room(self, loaded: Loaded, decision: Decision, left: State) -> None:
        """Let the calls of the engine end, and then the engine itself."""
        if self._worker is not None:
            self._worker.mark(OWNER, "draining", f"makes room for {decision.model}")
            await self._draining.drain(self._worker, loaded.model.name)
        self._unlist()
        await self._stop(loaded)
        self._parts.tally.switched()
        if left.for_batch:
            self._parts.tally.segment(monotonic() - left.since)
            if decision.cause == "realtime":
                self._parts.tally.preempted()

    async def _load(self, name: str) -> None:
        model, memory, began = self._parts.models[name], self._parts.memory, monotonic()
        generation = await memory.next_generation(self.runtime.name)
        self.state = replace(self.state, generation=generation)
        try:
            loaded = await self._parts.loader.load(model, self.runtime, generation)
        except Failed as failed:
            await self._note_failure(name, failed.failure)
            return
        self._loaded = loaded
        seconds = monotonic() - began
        self._parts.tally.loaded(name, seconds)
        with contextlib.suppress(StorageError):  # the time is known until the next restart
            await memory.loaded(name, seconds)
        self._list(loaded)
        hot = replace(self.state, phase="hot", since=monotonic())
        self._enter(hot, f"the engine answers, after {seconds:.1f} s")
        self._watch = asyncio.create_task(self._await_end(loaded))
        self._parts.holding.release(name)
        # Those that have waited get their slots before another model may be wanted.
        while self._parts.holding.waiting(name):  # noqa: ASYNC110  they run in the next turn
            await asyncio.sleep(0)

    def _list(self, loaded: Loaded) -> None:
        """Make a worker of the engine."""
        workers, name = self._parts.gateway.workers, self.runtime.name
        workers.remove(name)
        settings = WorkerSettings(
            url=loaded.engine.url, worker_id=name, models=(loaded.model.name,)
        )
        self._worker = workers.add(settings)

    def _unlist(self) -> None:
        if self._worker is not None:
            self._parts.gateway.workers.remove(self._worker.id)
            self._worker = None

    async def _stop(self, loaded: Loaded) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self._parts.loader.stop(loaded)
        if self._loaded is loaded:
            self._loaded = None

    # failures

    async def _await_end(self, loaded: Loaded) -> None:
        """Wait for the engine's own end, which is a failure."""
        found = await self._parts.loader.ended(loaded)
        self._unlist()
        self._loaded, self._watch = None, None
        await self._parts.loader.end(loaded, found.reason)
        await self._note_failure(loaded.model.name, found)
        self.wake()

    async def _note_failure(self, name: str | None, found: Failure) -> None:
        text, generation = f"{found.reason}: {found.text}", self.state.generation
        if name is not None:
            self._parts.tally.failed(name, found.reason)
            with contextlib.suppress(StorageError):  # it is remembered until the next restart
                await self._parts.memory.failed(name, found.reason, found.text, found.kept)
        state = State(
            phase="failed", model=name, since=monotonic(), generation=generation, reason=text
        )
        self._enter(state, text)
        if name is not None:
            self._parts.holding.review(name)

    def doubt(self, worker: Worker) -> None:
        """A call could not reach the engine: no more calls until it has answered a probe."""
        if worker is self._worker and OWNER not in worker.conditions:
            worker.mark(OWNER, "suspect", "it could not be reached")
            loaded = self._loaded
            if loaded is not None:
                self._parts.loader.check(loaded, lambda: worker.clear(OWNER))

    async def _end(self) -> None:
        for task in (self._step, self._watch):
            if task is not None:
                await _cancelled(task)
        self._unlist()
        if self._loaded is not None:
            await self._parts.loader.end(self._loaded)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
