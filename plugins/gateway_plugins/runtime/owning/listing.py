"""The worker that stands for the engine of a runtime."""

import itertools
import logging

from gateway import Worker, Workers, WorkerSettings
from gateway_plugins.runtime.loading.load import Loaded

log = logging.getLogger("gateway.runtime")


class Listing:
    """The worker of the present engine, under the `name` of the runtime.

    Operators can add, change and remove workers, too, and a reload may bring one of this id.
    """

    def __init__(self, workers: Workers, name: str) -> None:
        self._workers = workers
        self._name = name
        self._url = ""
        self.worker: Worker | None = None

    def enter(self, loaded: Loaded) -> Worker:
        """Make a worker of the engine; it takes calls from now on."""
        self._url = loaded.engine.url
        settings = WorkerSettings(
            url=self._url, worker_id=self._free_id(), models=(loaded.model.name,)
        )
        self.worker = self._workers.add(settings)
        return self.worker

    def leave(self) -> None:
        """Remove the worker, if there is one; its calls go on."""
        worker, self.worker = self.worker, None
        if worker is not None and self._is_listed(worker):
            self._workers.remove(worker.id)

    def follow(self, loaded: Loaded) -> None:
        """List the engine again if its worker was removed, or is another server now."""
        worker = self.worker
        if worker is not None and not self._is_listed(worker):
            words = "the worker of runtime %s was removed, or changed; its engine is listed again"
            log.warning(words, self._name)
            self.enter(loaded)

    def _is_listed(self, worker: Worker) -> bool:
        return worker in self._workers.all and worker.url == self._url

    def _free_id(self) -> str:
        if self._workers.find(self._name) is None:
            return self._name
        numbered = (f"{self._name}-{number}" for number in itertools.count(2))
        return next(one for one in numbered if self._workers.find(one) is None)
