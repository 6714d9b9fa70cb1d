"""Keeps calls to workers with one required version of the weights; polls every worker for it."""

import asyncio
import logging

import msgspec

from gateway import NOT_JSON, NoWorker, UpstreamError, UpstreamTimeout, Worker, Workers
from gateway_plugins.weights.trl.options import Options

log = logging.getLogger("gateway.trl")

NAME = "trl_version"
TIMEOUT = 5.0
"""Timeout in seconds of a request for a worker's version."""

MAX_VERSION = 256
"""Maximum characters of a version; a longer one is ignored."""


class WrongVersion(NoWorker):
    """No fit worker has the required weights."""

    code = "wrong_version"


class _Said(msgspec.Struct):
    weight_version: int | str | None = None
    model_version: int | str | None = None
    version: int | str | None = None

    @property
    def any(self) -> int | str | None:
        found = (self.weight_version, self.model_version, self.version)
        said = next((one for one in found if one is not None), None)
        return None if isinstance(said, str) and len(said) > MAX_VERSION else said


class RequiredVersion:
    """Keeps calls from workers of another version, and of an unknown one if configured.

    The owner adds `follow` to `workers.changed`, and removes it at the end.
    """

    def __init__(self, workers: Workers, options: Options) -> None:
        self._workers = workers
        self._options = options
        self._seen: frozenset[Worker] = frozenset()

    def change(self, options: Options) -> None:
        """Apply other options from now on."""
        self._options = options
        if not options.required_version:
            self.release()
        for worker in self._seen:
            self.judge(worker, worker.weight_version)

    async def watch(self) -> None:
        """Poll all workers every `version_interval` seconds, until cancelled."""
        while True:
            if self._options.required_version:
                await asyncio.gather(*(self._look_at(worker) for worker in self._workers.all))
            await asyncio.sleep(self._options.version_interval)

    def follow(self) -> None:
        """Handle a change of the workers; the version of a new one is unknown."""
        came = set(self._workers.all) - self._seen
        self._seen = frozenset(self._workers.all)
        for worker in came:
            self.judge(worker, None)

    def judge(self, worker: Worker, version: int | str | None) -> None:
        """Set or clear the condition for the reported version; None: it reports none."""
        required = self._options.required_version
        if not required:
            return
        if version is not None and str(version) == required:
            if NAME in worker.conditions:
                log.info("worker %s has version %s, as required", worker.id, required)
                worker.clear(NAME)
            return
        said = "it does not say its version" if version is None else f"it has version {version}"
        blocks = version is not None or self._options.unknown_version == "refuse"
        reason = f"{said}; required is {required}" + ("" if blocks else ", let through")
        known = worker.conditions.get(NAME)
        if known is None or known.reason != reason:
            log.warning("worker %s: %s", worker.id, reason)
            worker.mark(NAME, "wrong_version" if blocks else "up", reason, blocks=blocks)

    def check(self) -> None:
        """Raise WrongVersion if the version keeps some worker from calls.

        Called if no worker is left for a call.
        """
        kept = (worker.conditions.get(NAME) for worker in self._workers.all)
        if any(one is not None and one.blocks for one in kept):
            required = self._options.required_version
            raise WrongVersion(
                f"no worker that has version {required} of the weights can take this call now"
            )

    def release(self) -> None:
        """Clear the condition of every worker."""
        for worker in self._workers.all:
            worker.clear(NAME)

    async def _look_at(self, worker: Worker) -> None:
        """Poll a worker; one that does not respond keeps its condition, as probes handle it."""
        try:
            version = await _asked(worker, "/weight_info") or await _asked(worker, "/health/")
        except (UpstreamError, UpstreamTimeout):
            return
        if version is not None:
            worker.weight_version = version
        if worker in self._seen:
            self.judge(worker, version)


async def _asked(worker: Worker, path: str) -> int | str | None:
    answer = await worker.request("GET", path, timeout=TIMEOUT)
    if answer.status != 200:
        return None
    try:
        return msgspec.json.decode(answer.body, type=_Said).any
    except NOT_JSON:
        return None
