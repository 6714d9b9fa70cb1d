"""One update of all workers: each step begins when every worker has ended the step before."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

import msgspec

from gateway import BadRequest, Worker, Workers
from gateway_plugins.weights.gate import Gate, drained
from gateway_plugins.weights.sync_orders import Engine, Mode, NoEndpoint, Order, StepFailed

LAST_ORDERS = 10.0
"""Seconds that an engine has to go on again after it has failed, or while the gateway ends."""

GRACE = 5.0
"""Seconds in which the answers that were cut short reach their callers."""

Do = Callable[[Engine], Awaitable[None]]


class Failure(msgspec.Struct):
    """At which step a worker failed, and why."""

    step: str
    reason: str


class Report(msgspec.Struct):
    """How an update went, worker by worker; calls were held for `seconds`."""

    version: str
    ok: list[str] = []
    failed: dict[str, Failure] = {}
    seconds: float = 0.0


class Team:
    """Engines that go through steps together; who fails at one takes no part in the next.

    `failed` is told of each of those at once, with the step and the reason.
    """

    def __init__(
        self, engines: Sequence[Engine], failed: Callable[[Worker, Failure], None]
    ) -> None:
        self.live = list(engines)
        self.failures: dict[str, Failure] = {}
        self._failed = failed

    @property
    def workers(self) -> list[Worker]:
        return [engine.worker for engine in self.live]

    async def step(self, name: str, do: Do) -> None:
        """All do it at the same time; returns when all have done it, or failed."""
        good = await asyncio.gather(*(self._one(name, engine, do) for engine in self.live))
        self.live = [engine for engine, well in zip(self.live, good, strict=True) if well]

    def fail(self, worker: Worker, failure: Failure) -> None:
        self.failures[worker.id] = failure
        self._failed(worker, failure)

    async def _one(self, name: str, engine: Engine, do: Do) -> bool:
        try:
            await do(engine)
        except StepFailed as error:
            self.fail(engine.worker, Failure(name, str(error)))
            return False
        return True


async def check(team: Team) -> None:
    """Leave out who cannot be asked. Raises BadRequest where an engine lacks the endpoints."""

    async def look(engine: Engine) -> str | None:
        try:
            await _promptly(engine, _look)
        except NoEndpoint:
            missing.append(engine.worker.id)
        except StepFailed as error:
            return str(error)
        return None

    missing: list[str] = []
    problems = await asyncio.gather(*map(look, team.live))
    if missing:
        raise BadRequest(
            f"workers without vLLM's development endpoints: {', '.join(missing)}; start them with "
            "VLLM_SERVER_DEV_MODE=1, or remove them; nothing was changed",
            code="no_development_endpoints",
        )
    for engine, problem in zip(team.live, problems, strict=True):
        if problem is not None:
            team.fail(engine.worker, Failure("check", problem))
    team.live = [one for one, bad in zip(team.live, problems, strict=True) if bad is None]


async def _look(engine: Engine) -> None:
    await engine.is_paused()


class Pause:
    """Engines that generate nothing while the block lasts, and no call on its way to them.

    However the block ends, every engine that was told to pause is told to go on, and then the gate
    opens. An engine in the middle of a transfer of weights is told to finish it first: to generate
    before would kill it.
    """

    def __init__(self, gate: Gate, registry: Workers, team: Team, *, drain: float) -> None:
        self._gate = gate
        self._registry = registry
        self._team = team
        self._drain = drain
        self._told: list[Engine] = []
        self._open_transfers: set[Engine] = set()

    async def begin(self, reason: str, mode: Mode) -> None:
        """Close the gate, then pause all, as `mode` says."""
        team = self._team
        self._gate.close(reason, self._registry.all)
        if mode == "wait":
            await drained(self._registry, team.workers, self._drain)
        self._told = list(team.live)
        await team.step("pause", lambda engine: engine.pause(mode))
        if mode == "abort":
            await drained(self._registry, team.workers, GRACE)

    async def transfer(self, order: Order) -> None:
        """start, update, finish: those of one step on all engines before the next."""
        team = self._team
        self._open_transfers = set(team.live)
        await team.step("start", Engine.start)
        await team.step("update", lambda engine: engine.update(order))
        await team.step("finish", Engine.finish)
        self._open_transfers -= set(team.live)

    async def end(self) -> None:
        """Let all go on; who does not is one of the team's failures."""
        try:
            await asyncio.gather(*(self._leave_transfer(one) for one in self._open_transfers))
            left = [one for one in self._told if one not in self._team.live]
            await asyncio.gather(*(_quietly(one, Engine.resume) for one in self._resumable(left)))
            await self._team.step("resume", lambda engine: _promptly(engine, Engine.resume))
        finally:
            self._gate.open()

    def _resumable(self, engines: Sequence[Engine]) -> list[Engine]:
        return [one for one in engines if one not in self._open_transfers]

    async def _leave_transfer(self, engine: Engine) -> None:
        if await _quietly(engine, Engine.finish):
            self._open_transfers.discard(engine)


async def _promptly(engine: Engine, do: Do) -> None:
    try:
        async with asyncio.timeout(LAST_ORDERS):
            await do(engine)
    except TimeoutError:
        raise StepFailed(f"it did not answer within {LAST_ORDERS} s") from None


async def _quietly(engine: Engine, do: Do) -> bool:
    """Whether it could be done by an engine that has failed already."""
    try:
        await _promptly(engine, do)
    except StepFailed:
        return False
    return True


class Update:
    """An update under way. `named` is told of each worker that has the new weights."""

    def __init__(self, order: Order, team: Team, pause: Pause, named: Callable[[Worker], None]):
        self._order = order
        self._team = team
        self._pause = pause
        self._named = named
        self._done: set[Worker] = set()

    async def run(self) -> Report:
        """Raises BadRequest, and nothing has been touched, where an engine cannot be updated."""
        await check(self._team)
        began = monotonic()
        try:
            await self._pause.begin(
                f"the weights are being changed to {self._order.version}", self._order.mode
            )
            await self._swap()
        finally:
            self._give_up_the_rest()
            await self._pause.end()
        team, version = self._team, self._order.version
        ok = [worker.id for worker in team.workers]
        return Report(version, ok, team.failures, round(monotonic() - began, 3))

    async def _swap(self) -> None:
        order, team = self._order, self._team
        if order.update_info is not None:
            await self._pause.transfer(order)
        else:
            await team.step("reload", lambda engine: engine.call(order))
        if order.reset_prefix_cache:
            await team.step("reset_prefix_cache", lambda one: one.forget_prefixes(order.mode))
        await team.step("version", self._name)

    async def _name(self, engine: Engine) -> None:
        await engine.name(self._order.version)
        self._done.add(engine.worker)
        self._named(engine.worker)

    def _give_up_the_rest(self) -> None:
        """Where the update was broken off, nobody knows which weights these have."""
        for worker in self._team.workers:
            if worker not in self._done:
                self._team.fail(worker, Failure("update", "the update was broken off"))
        self._team.live = [one for one in self._team.live if one.worker in self._done]
