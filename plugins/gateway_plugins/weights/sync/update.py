"""One update of all workers: each step begins when every worker has ended the step before."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

import msgspec

from gateway import BadRequest, Worker, Workers
from gateway_plugins.weights.gate import Gate, drained
from gateway_plugins.weights.sync.engine_commands import (
    Engine,
    Mode,
    NoEndpoint,
    StepFailed,
    UpdateRequest,
)

PROMPT_TIMEOUT = 10.0
"""Seconds for an engine to respond to a check, to finish a transfer, or to resume."""

GRACE = 5.0
"""Seconds in which responses that were cut short reach their callers."""

Do = Callable[[Engine], Awaitable[None]]


class Failure(msgspec.Struct):
    """The step at which a worker failed, and the reason."""

    step: str
    reason: str


class Report(msgspec.Struct):
    """Result of an update for each worker; calls were held for `seconds`."""

    version: str
    ok: list[str] = []
    failed: dict[str, Failure] = {}
    seconds: float = 0.0


class Team:
    """Engines that go through steps together; an engine that fails takes no part in later steps.

    `failed` is called at once for each worker that fails, with the step and the reason.
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
        """Run `do` on all engines at once; return when each has finished or failed."""
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
    """Drop the engines that do not respond. Raises BadRequest if an engine lacks the endpoints."""

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
    """Keeps engines from generating, and calls from reaching them, from `begin` to `end`.

    However the pause ends, every engine that was paused is resumed, and then the gate opens. An
    engine in the middle of a transfer of weights has to finish it first, because generating before
    would kill the engine; if it cannot finish the transfer, it is not resumed.
    """

    def __init__(self, gate: Gate, registry: Workers, team: Team, *, drain: float) -> None:
        self._gate = gate
        self._registry = registry
        self._team = team
        self._drain = drain
        self._sent_pause: list[Engine] = []
        self._open_transfers: set[Engine] = set()

    async def begin(self, reason: str, mode: Mode) -> None:
        """Close the gate, then pause all engines, in the given `mode`."""
        team = self._team
        self._gate.close(reason, self._registry.all)
        if mode == "wait":
            await drained(self._registry, team.workers, self._drain)
        self._sent_pause = list(team.live)
        await team.step("pause", lambda engine: engine.pause(mode))
        if mode == "abort":
            await drained(self._registry, team.workers, GRACE)

    async def transfer(self, request: UpdateRequest) -> None:
        """Run start, update and finish, each on all engines before the next."""
        team = self._team
        self._open_transfers = set(team.live)
        await team.step("start", Engine.start)
        await team.step("update", lambda engine: engine.update(request))
        await team.step("finish", Engine.finish)
        self._open_transfers -= set(team.live)

    async def end(self) -> None:
        """Resume all engines, then open the gate; an engine that does not resume is a failure."""
        try:
            await asyncio.gather(*(self._leave_transfer(one) for one in self._open_transfers))
            left = [one for one in self._sent_pause if one not in self._team.live]
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
        async with asyncio.timeout(PROMPT_TIMEOUT):
            await do(engine)
    except TimeoutError:
        raise StepFailed(f"it did not answer within {PROMPT_TIMEOUT} s") from None


async def _quietly(engine: Engine, do: Do) -> bool:
    """Return whether an engine that has failed already could do it; raises no StepFailed."""
    try:
        await _promptly(engine, do)
    except StepFailed:
        return False
    return True


class Update:
    """An update under way. `named` is called with each worker that has the new weights."""

    def __init__(
        self, request: UpdateRequest, team: Team, pause: Pause, named: Callable[[Worker], None]
    ):
        self._request = request
        self._team = team
        self._pause = pause
        self._named = named
        self._done: set[Worker] = set()

    async def run(self) -> Report:
        """Run all steps. Raises BadRequest, with nothing changed, if an engine lacks endpoints."""
        await check(self._team)
        began = monotonic()
        try:
            await self._pause.begin(
                f"the weights are being changed to {self._request.version}", self._request.mode
            )
            await self._swap()
        finally:
            self._give_up_the_rest()
            await self._pause.end()
        team, version = self._team, self._request.version
        ok = [worker.id for worker in team.workers]
        return Report(version, ok, team.failures, round(monotonic() - began, 3))

    async def _swap(self) -> None:
        request, team = self._request, self._team
        if request.update_info is not None:
            await self._pause.transfer(request)
        else:
            await team.step("reload", lambda engine: engine.call(request))
        if request.reset_prefix_cache:
            await team.step("reset_prefix_cache", lambda one: one.forget_prefixes(request.mode))
        await team.step("version", self._name)

    async def _name(self, engine: Engine) -> None:
        await engine.name(self._request.version)
        self._done.add(engine.worker)
        self._named(engine.worker)

    def _give_up_the_rest(self) -> None:
        """Fail the workers that are not done: after an interruption their weights are unknown."""
        for worker in self._team.workers:
            if worker not in self._done:
                self._team.fail(worker, Failure("update", "the update was broken off"))
        self._team.live = [one for one in self._team.live if one.worker in self._done]
