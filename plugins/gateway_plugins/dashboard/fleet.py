"""The workers as the page shows them, from the memory of all processes."""

import msgspec

from gateway import Condition, Host, Topic, Worker
from gateway_plugins.dashboard.times import Counted, Percentiles, Times, merged, percentiles

SEEN = Topic("dashboard", "seen")
"""Name under which a process asks the others for what they have seen of the workers."""


class ShownWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker. `conditions` are by owner; `in_flight` and `hour` are of all processes."""

    worker_id: str
    url: str
    models: list[str] | None
    state: str
    healthy: bool
    conditions: dict[str, Condition]
    in_flight: int
    limit: int | None
    weight: float
    weight_version: int | str | None
    last_error: str | None
    last_error_at: float | None
    hour: Percentiles


class ShownFleet(msgspec.Struct, frozen=True):
    """All workers."""

    workers: list[ShownWorker]
    healthy: int
    in_flight: int
    processes: int


class Fleet:
    """The fleet of one gateway. `join` makes this process answer the others."""

    def __init__(self, gateway: Host, times: Times) -> None:
        self._gateway = gateway
        self._times = times

    def join(self) -> None:
        """Answer the other processes."""
        self._gateway.peers.handle(SEEN, self._tell)

    async def show(self) -> ShownFleet:
        """Return the workers, with what all processes have seen of them."""
        said = await self._gateway.peers.request(SEEN)
        others = (msgspec.msgpack.decode(one, type=dict[str, Counted]) for one in said)
        seen = merged((self._seen(), *others))
        workers = [_shown(one, seen[one.id]) for one in self._gateway.workers.all]
        healthy = sum(one.healthy for one in workers)
        return ShownFleet(workers, healthy, sum(one.in_flight for one in workers), len(said) + 1)

    def _seen(self) -> dict[str, Counted]:
        workers = self._gateway.workers.all
        return {one.id: self._times.of(one.id, one.in_flight) for one in workers}

    async def _tell(self, _: bytes) -> bytes:
        return msgspec.msgpack.encode(self._seen())


def _shown(worker: Worker, counted: Counted) -> ShownWorker:
    info = worker.info()
    return ShownWorker(
        worker_id=info.worker_id,
        url=info.url,
        models=info.models,
        state=info.state,
        healthy=info.healthy,
        conditions=info.conditions,
        in_flight=counted.in_flight,
        limit=info.limit,
        weight=info.weight,
        weight_version=info.weight_version,
        last_error=info.last_error,
        last_error_at=info.last_error_at,
        hour=percentiles(counted),
    )
