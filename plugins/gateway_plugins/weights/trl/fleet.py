"""Tracks which worker has completed which updates, and quarantines workers that missed one.

An update is a round of steps: `begin` (or the first `load` after an `end`), each `load`, the `end`.
If a worker misses a step that another worker takes, it no longer has the weights that the others
have. It then gets no calls until it has taken a whole round, or that very step in a second try.
"""

import logging
from collections.abc import Collection, Mapping

import msgspec
from msgspec.structs import replace

from gateway import Worker, Workers
from gateway_plugins.weights.trl.paths import Kind, Step

log = logging.getLogger("gateway.trl")

UNREACHED = frozenset({"down", "ejected"})
"""States in which a worker is sent nothing."""


class Standing(msgspec.Struct, frozen=True):
    """The state of a worker; the texts are reasons for a quarantine, None: no such reason.

    `epoch` is the last update that the worker has completed. `apart`: it did not join the group.
    `stale`: it missed a part of an update. `lacking`: other steps that failed, by kind. `whole`: it
    has missed nothing of the present round. `inside` an update and `paused`: by the latest step
    that its engine took.
    """

    epoch: int = 0
    apart: str | None = None
    stale: str | None = None
    lacking: Mapping[Kind, str] = {}
    whole: bool = True
    inside: bool = False
    paused: bool = False

    @property
    def reason(self) -> str | None:
        return self.apart or self.stale or next(iter(self.lacking.values()), None)

    def took(self, kind: Kind) -> "Standing":
        """Return the standing after the worker has taken a step."""
        match kind:
            case "join":
                return replace(self, apart=None)
            case "begin":
                return replace(self, inside=True)
            case "load" if self.apart:
                return replace(self, whole=False, stale=f"{self.apart}, then an update came")
            case "end":
                return replace(self, inside=False)
            case "pause" | "resume":
                return replace(self, paused=kind == "pause", lacking=without(self.lacking, "pause"))
            case "cache" | "version":
                return replace(self, lacking=without(self.lacking, kind))
        return self

    def missed(self, kind: Kind, why: str) -> "Standing":
        """Return the standing after the worker has missed a step that another worker took."""
        match kind:
            case "join":
                return replace(self, apart=why)
            case "begin" | "load" | "end":
                return replace(self, whole=False, stale=why)
            case "leave":
                return self
        under: Kind = "pause" if kind == "resume" else kind
        return replace(self, lacking={**self.lacking, under: why})


class WorkerStanding(msgspec.Struct):
    """A worker in /admin/trl; `quarantined` is the reason why it gets no calls, or None."""

    worker_id: str
    epoch: int
    quarantined: str | None
    updating: bool
    paused: bool
    weight_version: int | str | None


class Fleet:
    """The workers of one gateway. `epoch` counts the updates that at least one has completed.

    `name` is the name of the condition that it sets. The owner adds `follow` to `workers.changed`,
    and removes it at the end.
    """

    def __init__(self, workers: Workers, name: str) -> None:
        self.epoch = 0
        self._workers = workers
        self._name = name
        self._standings: dict[Worker, Standing] = {}
        self._before: dict[Worker, Standing] = {}
        self._open = False
        self._loads = 0
        self._ended = False
        self._touched = False
        self._judging = False

    def of(self, worker: Worker) -> Standing:
        return self._standings.get(worker, Standing())

    def reached(self) -> list[Worker]:
        """Return the workers that can be sent a step now, including quarantined ones."""
        return [worker for worker in self._workers.all if not unreached(worker)]

    @property
    def occupied(self) -> list[Worker]:
        """Workers that must get no calls for now: paused, or within an update.

        Quarantined workers are left out.
        """
        found = ((worker, self.of(worker)) for worker in self.reached())
        return [one for one, at in found if (at.inside or at.paused) and at.reason is None]

    def standings(self) -> list[WorkerStanding]:
        return [_shown(worker, self.of(worker)) for worker in self._workers.all]

    def note(self, step: Step, took: Collection[Worker], missed: Mapping[Worker, str]) -> None:
        """Record which workers `took` a step, and why others `missed` it.

        If no worker took the step, nothing changes.
        """
        if not took:
            return
        self._advance(step.kind)
        self._before = {worker: self.of(worker) for worker in missed}
        for worker, why in missed.items():
            self._put(worker, self.of(worker).missed(step.kind, why))
        self._take(step.kind, took)
        self._judge()

    def note_again(self, step: Step, took: Collection[Worker]) -> None:
        """Record which workers took the step of the last `note` in a second try.

        They had missed it before.
        """
        for worker in took:
            self._put(worker, self._before.get(worker, self.of(worker)))
        self._take(step.kind, took)
        self._judge()

    def follow(self) -> None:
        """Handle a change of the workers.

        After an update, or within one, a worker that is new or down is quarantined, because it may
        lack that update.
        """
        if self._judging:
            return
        for gone in self._standings.keys() - set(self._workers.all):
            del self._standings[gone]
        for worker in self._workers.all if self._touched or self._open else ():
            if worker not in self._standings:
                self._put(worker, Standing(stale="it came after an update", whole=False))
            elif "down" in _states(worker):
                why = self.of(worker).stale or "it was down, and may have lost its last update"
                self._before.pop(worker, None)
                self._put(worker, replace(self.of(worker), stale=why, whole=False))
        self._judge()

    def release(self) -> None:
        """Clear the condition of every worker."""
        for worker in self._workers.all:
            worker.clear(self._name)

    def _advance(self, kind: Kind) -> None:
        if kind == "begin" or (kind == "load" and not self._open):
            self._open, self._loads = True, 0
            for worker in self._workers.all:
                self._put(worker, replace(self.of(worker), whole=True))
        if kind == "load":
            self._loads += 1
            self._touched = True
        if kind == "end":
            self._ended = self._open and self._loads > 0
            self.epoch += self._ended
            self._open = False

    def _take(self, kind: Kind, took: Collection[Worker]) -> None:
        for worker in took:
            after = self.of(worker).took(kind)
            if kind == "end" and after.whole and self._ended:
                after = replace(after, epoch=self.epoch, stale=None)
            self._put(worker, after)

    def _put(self, worker: Worker, standing: Standing) -> None:
        self._standings[worker] = standing

    def _judge(self) -> None:
        """Set or clear the condition of each worker if it has changed."""
        self._judging = True
        try:
            for worker in self._workers.all:
                self._show(worker, self.of(worker).reason)
        finally:
            self._judging = False

    def _show(self, worker: Worker, reason: str | None) -> None:
        known = worker.conditions.get(self._name)
        if reason is not None and (known is None or known.reason != reason):
            log.warning("worker %s is quarantined: %s", worker.id, reason)
            worker.mark(self._name, "quarantined", reason)
        elif reason is None and known is not None:
            log.info("worker %s has caught up, and gets calls again", worker.id)
            worker.clear(self._name)


def unreached(worker: Worker) -> str | None:
    """Return the state in which the worker is sent nothing, None if it can be reached."""
    return next((state for state in _states(worker) if state in UNREACHED), None)


def _states(worker: Worker) -> list[str]:
    return [one.state for one in worker.conditions.values() if one.blocks]


def without(lacking: Mapping[Kind, str], kind: Kind) -> Mapping[Kind, str]:
    return {one: why for one, why in lacking.items() if one != kind}


def _shown(worker: Worker, standing: Standing) -> WorkerStanding:
    return WorkerStanding(
        worker_id=worker.id,
        epoch=standing.epoch,
        quarantined=standing.reason,
        updating=standing.inside,
        paused=standing.paused,
        weight_version=worker.weight_version,
    )
