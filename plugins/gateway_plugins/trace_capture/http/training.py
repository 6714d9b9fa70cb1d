"""The route that tells whether the calls teach anything."""

import contextlib
import time

import msgspec

from gateway import BadRequest, ControlRequest, Host, StorageUnavailable
from gateway_plugins.trace_capture.http.fields import ShortText, Timestamp
from gateway_plugins.trace_capture.training import hours
from gateway_plugins.trace_capture.training.hours import HOUR
from gateway_plugins.trace_capture.training.shares import Training, Wanted, training

DAY = 86_400.0
"""Seconds that are told if a request does not say since when."""

CACHED = 2.0
"""Seconds for which an answer is good for all who ask for the same."""

MAX_CACHED = 32
"""Answers that are kept."""


class TrainingQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Times in Unix seconds, extended to whole hours; the calls of these names only."""

    since: Timestamp | None = None
    until: Timestamp | None = None
    harness: ShortText | None = None
    worker: ShortText | None = None
    model: ShortText | None = None

    def wanted(self, now: float) -> Wanted:
        """Return what is wanted at `now`. Raises BadRequest if nothing is."""
        until = now if self.until is None else self.until
        since = until - DAY if self.since is None else self.since
        if since > until:
            raise BadRequest("`since` is after `until`", param="since")
        return Wanted(
            first=int(since // HOUR),
            last=int(until // HOUR),
            harness=self.harness,
            worker=self.worker,
            model=self.model,
        )


class TrainingRoutes:
    """Handlers for the health of training data."""

    def __init__(self, gateway: Host) -> None:
        self._storage = gateway.storage
        self._cached: dict[Wanted, tuple[float, Training]] = {}

    async def health(self, request: ControlRequest) -> Training:
        wanted = request.query(TrainingQuery).wanted(time.time())
        known = self._cached.get(wanted)
        if known is not None and time.monotonic() - known[0] < CACHED:
            return known[1]
        with contextlib.suppress(StorageUnavailable):  # what is counted can still be read
            await self._storage.write(hours.catch_up)
        found = await self._storage.read(lambda db: training(db, wanted))
        while len(self._cached) >= MAX_CACHED:
            self._cached.pop(next(iter(self._cached)))
        self._cached[wanted] = time.monotonic(), found
        return found
