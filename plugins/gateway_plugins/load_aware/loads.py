"""The load of workers, as engines tell it and as this gateway knows it. There is no clock here."""

from collections.abc import Container, Sequence

import msgspec

from gateway import Worker
from gateway_plugins.load_aware.options import Options
from gateway_plugins.load_aware.reading import EngineLoad


class Told(msgspec.Struct, frozen=True):
    """What an engine told `at` a time, in monotonic seconds; `own` calls there were then ours."""

    load: EngineLoad
    own: int
    at: float


class Loads:
    """What engines have told of themselves, and what follows from that for the next choice."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._told: dict[str, Told] = {}
        self._turn = 0

    def note(self, worker: Worker, load: EngineLoad, now: float) -> None:
        """Note what the engine of a worker has told just now."""
        self._told[worker.id] = Told(load, worker.in_flight, now)

    def keep(self, worker_ids: Container[str]) -> None:
        """Forget all other workers."""
        self._told = {name: told for name, told in self._told.items() if name in worker_ids}

    def told(self, worker: Worker, now: float) -> Told | None:
        """Return what the engine told last; None if that is too long ago."""
        told = self._told.get(worker.id)
        return told if told is not None and now - told.at <= self.options.max_age else None

    def cost(self, worker: Worker, now: float) -> float:
        """Return how loaded a worker is, with one more call, for its weight.

        That is the gateway's own count of attempts, which is always right for its own; the calls
        beyond these that the engine had when it told, which are those of others; and the calls in
        its queue once more. A cache that is full makes all that heavier.
        """
        told, options = self.told(worker, now), self.options
        if told is None:
            return worker.load
        load = told.load
        others = max(0, load.running + load.waiting - told.own)
        waiting = max(0, load.waiting - max(0, told.own - worker.in_flight))
        more = others + options.waiting_weight * waiting
        return (worker.load + more / worker.weight) * (1 + options.kv_weight * (load.usage or 0.0))

    def pick(self, workers: Sequence[Worker], now: float) -> Worker:
        """Return the least loaded worker; of equal ones, each in its turn."""
        self._turn = start = (self._turn + 1) % len(workers)
        rotated = [*workers[start:], *workers[:start]]
        return min(rotated, key=lambda worker: self.cost(worker, now))
