"""The workers of this gateway, and the core's own choice of one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from time import monotonic
from typing import NamedTuple

from msgspec.structs import replace

from gateway import config
from gateway.errors import MIN_RETRY_AFTER, CallError, ConfigError
from gateway.fleet.changes import Change, Overlay
from gateway.fleet.keepers import Keepers
from gateway.fleet.slots import Slots
from gateway.fleet.times.outlook import Absence, seconds_until_one
from gateway.fleet.worker import Contexts, Worker, make_pool
from gateway.upstream.pool import Pool

DRAIN = "drain"
"""Owner of the "draining" condition, which an operator sets."""

load_of = attrgetter("load")

USUAL_DURATION = 1.0
"""Seconds that an attempt is taken to last before any has gone well."""


Hold = Callable[[Worker, str | None, float, float], bool]
"""Arguments: the worker, the model that the call names, the monotonic time when the attempt began,
and the seconds that the worker asks to wait (0: it does not say)."""


class Serving(NamedTuple):
    """The workers that serve one model: all of them, and those that may get a call now.

    Both tuples are the same objects until something about a worker changes.
    """

    all: tuple[Worker, ...]
    fit: tuple[Worker, ...]


class Workers:
    """The registry. `all` are the workers that take calls, in the order of `Overlay.standing`.

    `fit` are those that may get a call now. A change replaces the tuple `all`, so that a loop over
    the old tuple may continue. `slots` are those of all workers together. Callbacks in `changed`
    are called after each change of a worker's fitness, weight or models, and after each worker that
    is added or removed; callbacks in `freed` after each slot that is given back; callbacks in
    `troubled` after each attempt that ended with an error. None of them may wait or raise.
    `refresh_models` requests the models of all workers, `look_again` soon those of one. `keepers`
    knows which worker made an object. `hold`, if set, is asked about a call that a worker has
    refused and not run; it returns whether the call counts as not asked there, and waits in
    `filter_workers` until the worker may be asked again. `loadable` are models that a plugin can
    load: a call for one that no worker serves now is no error, and may wait in `filter_workers`.
    `loads`: the plugin can load them now, so that the gateway is ready without any worker.
    `load_failures` returns why some of them cannot be loaded, by their names, and `unloadable` the
    same of those for which waiting is in vain, with the time (Unix seconds) since when that is
    known: work of a later time is another try. `reserved` has the ids of workers that a plugin adds
    itself, with words for what they are: no configuration that a reload brings may have them.
    `views` has what `serving` has returned since the latest change, by its argument: a look-up
    without a call.
    """

    def __init__(self, settings: config.Config) -> None:
        self.all: tuple[Worker, ...] = ()
        self.fit: tuple[Worker, ...] = ()
        self.overlay = Overlay()
        self.slots = Slots()
        self.keepers = Keepers()
        self.changed: list[Callable[[], None]] = []
        self.freed: list[Callable[[Worker], None]] = []
        self.troubled: list[Callable[[Worker, CallError], None]] = []
        self.mixed = False
        self.refresh_models: Callable[[], Awaitable[None]] = _ask_nobody
        self.look_again: Callable[[Worker], None] = _look_at_none
        self.hold: Hold | None = None
        self.loadable: frozenset[str] = frozenset()
        self.loads = False
        self.load_failures: Callable[[], Mapping[str, str]] = dict
        self.unloadable: Callable[[], Mapping[str, tuple[str, float]]] = dict
        self.reserved: Mapping[str, str] = {}
        self._settings = settings
        self._leaving: list[Worker] = []
        self._turn = 0
        self._nobody = Absence()
        self._nobody.begin(monotonic())
        self.views: dict[str | None, Serving] = {}
        self._claimed: frozenset[str] = frozenset()
        self._names: frozenset[str] = frozenset()
        self.plan(settings)()

    def close_idle(self) -> None:
        """Close the connections to workers that carry nothing."""
        for worker in (*self.all, *self._leaving):
            if worker.remote:
                worker.pool.close_idle()

    def plan(self, settings: config.Config) -> Callable[[], None]:
        """Return a function that applies `settings`, with the admin interface's changes over them.

        Raises ConfigError if the settings cannot be applied. Nothing changes before the function is
        called, which may be later; it applies everything at once. A worker that keeps its id stays
        the same object, with its slots, conditions and calls. A worker that is gone gets no more
        calls.
        """
        pools = self._prepare(settings)

        def follow() -> None:
            self._settings = settings
            self._arrange(replace(self.overlay, base=settings.workers), pools)

        return follow

    def alter(self, worker_id: str, change: Change) -> Callable[[], None]:
        """Return a function that applies `change` to the worker of that id, like `plan`.

        Raises OSError if the TLS files of an added worker cannot be used.
        """
        pools = {}
        if change.added is not None and self.find(worker_id) is None:
            pools[_place(change.added)] = self._pool(change.added)
        return lambda: self._arrange(self.overlay.having(worker_id, change), pools)

    def restore(self, changes: Mapping[str, Change]) -> None:
        """Apply the changes made before a restart; changes made since then take precedence."""
        self._arrange(replace(self.overlay, changes={**changes, **self.overlay.changes}), {})

    def follow(self, changes: Mapping[str, Change]) -> None:
        """Replace all changes with these.

        Raises OSError if the TLS files of an added worker cannot be used.
        """
        self._arrange(replace(self.overlay, changes=changes), {})

    def add(self, worker: config.Worker) -> Worker:
        """Add a worker, which takes calls from now on, and return it.

        Raises ValueError if another worker has its id, OSError if its TLS files cannot be used.
        """
        if self.find(worker.worker_id) is not None:
            raise ValueError(f"there is a worker {worker.worker_id} already")
        self.alter(worker.worker_id, self.overlay.added(worker))()
        return next(one for one in self.all if one.id == worker.worker_id)

    def remove(self, worker_id: str) -> Worker | None:
        """Remove and return a worker; calls in flight finish. None if there is no such worker."""
        worker = self.find(worker_id)
        if worker is not None:
            self.alter(worker_id, self.overlay.removed(worker_id))()
        return worker

    def unlisted(self, worker: config.Worker) -> Worker:
        """Return a worker that gets no calls, to send requests to: one that is about to come.

        Raises OSError if its TLS files cannot be used.
        """
        return Worker(worker, self._settings.timeouts, self._settings.server_limits)

    def set_loadable(self, models: frozenset[str], *, now: bool = True) -> None:
        """Replace `loadable`; `now`: they can be loaded now."""
        self.loadable, self.loads = models, now and bool(models)
        self.refresh()

    def put(self, workers: tuple[Worker, ...]) -> None:
        """Replace the workers of the configuration with these, in this order."""
        for worker in workers:
            worker.adopt(self)
        self.overlay = Overlay(tuple(worker.settings for worker in workers))
        self._set(workers)

    def _prepare(self, settings: config.Config) -> "Pools":
        """Create pools for workers that are new or reached differently. Raises ConfigError."""
        pools: Pools = {}
        contexts: Contexts = {}
        problems = [
            f"workers: {one.worker_id}: {self.reserved[one.worker_id]} has this `worker_id`; give "
            "the worker another one"
            for one in settings.workers
            if one.worker_id in self.reserved
        ]
        for worker in settings.workers:
            found = self.find(worker.worker_id)
            if found is None or _reach(worker, settings) != _reach(found.settings, self._settings):
                try:
                    pools[_place(worker)] = make_pool(
                        worker, settings.timeouts, settings.server_limits, contexts
                    )
                except OSError as error:
                    problems.append(f"workers: {worker.worker_id}: tls: {error}")
        if problems:
            raise ConfigError(*problems)
        return pools

    def _arrange(self, overlay: Overlay, pools: "Pools") -> None:
        self.overlay = overlay
        found = {worker.id: worker for worker in self.all}
        self._set(tuple(self._stand(one, found, pools) for one in overlay.standing()))

    def _stand(
        self, settings: config.Worker, found: Mapping[str, Worker], pools: "Pools"
    ) -> Worker:
        worker, pool = found.get(settings.worker_id), pools.get(_place(settings))
        if worker is None:
            now = self._settings
            worker = Worker(settings, now.timeouts, now.server_limits, self, pool)
        elif pool is not None or settings.url != worker.settings.url:
            worker.change(settings, self._pool(settings) if pool is None else pool)
        elif settings != worker.settings:
            worker.change(settings)
        if not self.overlay.of(worker.id).drained:
            worker.clear(DRAIN)
        elif DRAIN not in worker.conditions:
            worker.mark(DRAIN, "draining", "by an operator")
        return worker

    def _pool(self, settings: config.Worker) -> Pool:
        return make_pool(settings, self._settings.timeouts, self._settings.server_limits)

    def _set(self, workers: tuple[Worker, ...]) -> None:
        gone = [worker for worker in self.all if worker not in workers]
        for worker in gone:
            worker.leave()
        self._leaving = [*(worker for worker in self._leaving if worker.busy), *gone]
        self.all = workers
        self.refresh()

    def refresh(self) -> None:
        """Recompute the views of all workers, and call the callbacks in `changed`."""
        self.views = {}
        self.fit = tuple(worker for worker in self.all if worker.fit)
        kinds = {(worker.models, frozenset(worker.denied)) for worker in self.all}
        self.mixed = len(kinds) > 1 or bool(self.loadable)
        self._claimed = self.loadable.union(*(worker.models or () for worker in self.all))
        self._names = self._claimed.union(*(worker.denied for worker in self.all))
        for callback in self.changed:
            callback()

    def find(self, worker_id: str) -> Worker | None:
        return next((worker for worker in self.all if worker.id == worker_id), None)

    def called(self, model: str) -> str:
        """The name under which workers have a model: Ollama's `llama3` is `llama3:latest`.

        Only if no worker has it under its own name.
        """
        if model in self._claimed or ":" in model.rpartition("/")[2]:
            return model
        tagged = f"{model}:latest"
        return tagged if tagged in self._claimed else model

    def serving(self, model: str | None = None) -> Serving:
        """Workers that may serve `model` (None: any); both tuples are empty if none does.

        If all that have it deny it, they serve it after all: nobody else could say no for them.
        """
        # All unknown names share one view, so that made-up names do not fill the memory.
        known = model is None or model in self._names or self.called(model) in self._claimed
        key = model if known else ""
        found = self.views.get(key)
        if found is None:
            able = tuple(w for w in self.all if model is None or w.serves(model))
            if not able and model is not None:
                able = tuple(w for w in self.all if w.claims(model))
            everybody = len(able) == len(self.all)
            fit = self.fit if everybody else tuple(worker for worker in able if worker.fit)
            found = self.views[key] = Serving(able, fit)
        return found

    def may_load(self, model: str | None) -> bool:
        """Whether a plugin can load the model; None: whether it can load any."""
        return bool(self.loadable) if model is None else self.called(model) in self.loadable

    def deny(self, worker: Worker, model: str) -> None:
        """Avoid `worker` for `model` for a while, as it does not have it; look at its list anew."""
        worker.deny(model)
        self.look_again(worker)

    def usual_duration(self) -> float:
        """Seconds that an attempt without an error lasts, as the mean of the workers' averages."""
        known = [worker.duration for worker in self.all if worker.duration is not None]
        return sum(known) / len(known) if known else USUAL_DURATION

    def seconds_until_fit(self, model: str | None = None) -> int:
        """Estimate for `Retry-After`: seconds until a worker that serves `model` may get calls."""
        serving = self.serving(model if self.mixed else None)
        if serving.fit:
            return MIN_RETRY_AFTER
        away = [one.absence for one in serving.all if DRAIN not in one.conditions]
        return seconds_until_one(away or [self._nobody], [one.absence for one in self.all])

    def seconds_until(self, worker: Worker) -> int:
        """Estimate for `Retry-After`: seconds until this worker may get calls."""
        if worker.fit:
            return MIN_RETRY_AFTER
        return seconds_until_one([worker.absence], [one.absence for one in self.all])

    def is_last(self, worker: Worker) -> bool:
        """Whether one of the models that `worker` serves has no other worker that is fit."""
        # A worker whose models are unknown is the last one for them unless another one's are, too.
        models = (None,) if not self.mixed else worker.models or ("",)
        return any({worker}.issuperset(self.serving(model).fit) for model in models)

    def least_loaded(self, workers: Sequence[Worker]) -> Worker:
        """The worker with the fewest attempts in flight for its weight, equal ones in turn."""
        if len(workers) == 1:
            return workers[0]
        self._turn = start = (self._turn + 1) % len(workers)
        rotated = [*workers[start:], *workers[:start]]
        return min(rotated, key=load_of)

    def close(self) -> None:
        for worker in (*self.all, *self._leaving):
            worker.close()


async def _ask_nobody() -> None:
    pass


def _look_at_none(worker: Worker) -> None:
    pass


Pools = dict[tuple[str, str], Pool]
"""New pools for workers, by `_place`."""


def _place(worker: config.Worker) -> tuple[str, str]:
    return worker.worker_id, worker.url


def _reach(worker: config.Worker, settings: config.Config) -> tuple[object, ...]:
    """All that determines a pool; never equal for https, because TLS files may be new."""
    timeouts = settings.timeouts
    files = object() if worker.url.startswith("https:") else None
    return worker.url, files, timeouts.connect, timeouts.keepalive, settings.server_limits
