"""Workers that hold each call until a test lets it go, behind a real Proxy and the real queue."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gateway_plugins.backpressure import Backpressure
from support.gateways.dispatching import plugin_of
from support.workers.failing_worker import refusal
from support.workers.memory_worker import MemoryPool

from gateway import CallerGone, Gateway, Principal, Worker, hookimpl
from gateway.calls.call import Call
from gateway.config import Config, Failover, Probes, StorageSettings
from gateway.config import Worker as WorkerConfig
from gateway.errors import ConnectFailed
from gateway.testing import RecordedCall, answer_of, entry, make_call
from gateway.upstream.connection import Connection

REFUSED = refusal(503)
SETTLED = 30
"""Turns of the loop after which nothing more happens by itself."""


class HeldPool(MemoryPool):
    """Connections come about when a test says so; `held` are those it has not decided on."""

    def __init__(self) -> None:
        super().__init__([answer_of(b"{}")])
        self.held: list[asyncio.Future[list[bytes]]] = []

    async def open(self) -> Connection:
        decided = asyncio.get_running_loop().create_future()
        self.held.append(decided)
        try:
            self.answer = await decided
        finally:
            self.held.remove(decided)
        return await super().open()

    def answer_next(self, place: int = 0) -> None:
        self._decided(place).set_result([answer_of(b"{}")])

    def refuse_next(self, place: int = 0) -> None:
        self._decided(place).set_result([REFUSED])

    def fail_next(self, place: int = 0) -> None:
        self._decided(place).set_exception(ConnectFailed("no connection"))

    def _decided(self, place: int) -> asyncio.Future[list[bytes]]:
        undecided = [one for one in self.held if not one.done()]
        return undecided[place % len(undecided)]

    @property
    def undecided(self) -> int:
        return sum(not one.done() for one in self.held)


class Names:
    """Who calls is whom the headers say, with the scopes that they say."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        scopes = (call.header("x-scopes") or "realtime hurried").split()
        return Principal(call.header("x-principal") or "", frozenset(scopes))


class Fleet:
    """A gateway with a queue before workers that hold what they get."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.running: dict[RecordedCall, asyncio.Task[None]] = {}
        self.queue = plugin_of(gateway, Backpressure)
        for worker in gateway.workers.all:
            worker.pool = HeldPool()

    def add(self, worker: WorkerConfig) -> Worker:
        self.gateway.workers.add(worker)
        added = self.gateway.workers.find(worker.worker_id)
        assert added is not None
        added.pool = HeldPool()
        return added

    def call(
        self, *, session: str | None = None, model: str = "sim", **headers: str
    ) -> RecordedCall:
        """Begin one; header names have dashes."""
        made = make_call(
            {"model": model, "messages": []},
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            session_id=session,
        )
        self.running[made] = asyncio.create_task(self.gateway.proxy.dispatch(made))
        return made

    def undecided(self) -> dict[Worker, int]:
        """How many calls each worker holds, where there are any."""
        held = {
            one: one.pool.undecided
            for one in self.gateway.workers.all
            if isinstance(one.pool, HeldPool)
        }
        return {worker: count for worker, count in held.items() if count}

    def pool(self, worker_id: str) -> HeldPool:
        worker = self.gateway.workers.find(worker_id)
        assert worker is not None
        assert isinstance(worker.pool, HeldPool)
        return worker.pool

    def leave(self, call: RecordedCall, *, cancel: bool = False) -> None:
        if cancel:
            self.running[call].cancel()
        else:
            call.cancel(CallerGone())

    async def settle(self, turns: int = SETTLED) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def fleet(
    *workers: WorkerConfig, plugins: tuple[type, ...] = (), **options: object
) -> AsyncIterator[Fleet]:
    """With the queue's `options`; what still runs at the end is let go."""
    config = Config(
        workers=workers,
        plugins=(entry(Names), *map(entry, plugins), entry("backpressure", **options)),
        failover=Failover(backoff=1e-6, budget=1.0, deadline=None, max_workers=9),
        storage=StorageSettings(path=":memory:"),
        probes=Probes(interval=None, models_interval=None),
    )
    async with Gateway(config) as gateway:
        opened = Fleet(gateway)
        yield opened
        for call in opened.running:
            opened.leave(call)
        await asyncio.gather(*opened.running.values(), return_exceptions=True)
