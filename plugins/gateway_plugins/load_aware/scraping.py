"""Asks engines for their metrics, from time to time."""

import asyncio
import logging
from time import monotonic

from gateway import CallError, Worker, Workers
from gateway_plugins.load_aware.loads import Loads
from gateway_plugins.load_aware.reading import load_in

log = logging.getLogger("gateway.load_aware")


class Scraper:
    """Keeps `loads` up to date. `silent` has the workers that do not tell, and why."""

    def __init__(self, workers: Workers, loads: Loads) -> None:
        self.silent: dict[str, str] = {}
        self.scrapes = self.failures = 0
        self._workers = workers
        self._loads = loads

    async def run(self) -> None:
        """Ask all workers until cancelled."""
        while True:
            began = monotonic()
            await self.ask()
            await asyncio.sleep(max(0.0, began + self._loads.options.interval - monotonic()))

    async def ask(self) -> None:
        """Ask all workers once, at the same time, and forget those that are gone."""
        workers = [worker for worker in self._workers.all if worker.remote]
        ids = {worker.id for worker in workers}
        self._loads.keep(ids)
        self.silent = {name: why for name, why in self.silent.items() if name in ids}
        await asyncio.gather(*map(self._ask, workers))

    async def _ask(self, worker: Worker) -> None:
        options = self._loads.options
        self.scrapes += 1
        try:
            answer = await worker.request("GET", options.path, timeout=options.timeout)
        except CallError as error:
            self._fail(worker, str(error))
            return
        if answer.status != 200:
            self._fail(worker, f"status {answer.status}")
        elif len(answer.body) > options.max_bytes:
            self._fail(worker, f"{len(answer.body)} bytes are more than max_bytes")
        elif (load := load_in(answer.body)) is None:
            self._fail(worker, "there is no gauge of running calls that the gateway knows")
        else:
            self._loads.note(worker, load, monotonic())
            if self.silent.pop(worker.id, None) is not None:
                log.info("worker %s: it tells its load again", worker.id)

    def _fail(self, worker: Worker, why: str) -> None:
        self.failures += 1
        if worker.id not in self.silent:
            words = "worker %s does not tell its load at %s (%s): the gateway's own counts are used"
            log.warning(words, worker.id, self._loads.options.path, why)
        self.silent[worker.id] = why
