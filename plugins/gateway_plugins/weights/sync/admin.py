"""The routes of weight_sync, and the one update or pause that may be under way."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import NamedTuple

import msgspec
from starlette.responses import Response

from gateway import BadRequest, ControlRequest, Host, Worker
from gateway_plugins.weights.gate import Gate
from gateway_plugins.weights.sync.engine_commands import Engine, Mode, UpdateRequest
from gateway_plugins.weights.sync.update import Failure, Pause, Report, Team, Update, check
from gateway_plugins.weights.sync.versions import Versions

log = logging.getLogger("gateway.weight_sync")

UNTOUCHED = frozenset({"check", "pause", "resume"})
"""Steps that leave the weights whole, even if they fail."""


class WeightsBusy(BadRequest):
    """An update is under way, or the fleet is paused."""

    status = 409
    code = "weights_busy"


class Times(NamedTuple):
    """Seconds for running calls to finish, and for an engine to do one step."""

    drain: float
    step_timeout: float


class WorkerWeights(msgspec.Struct):
    """A worker's version and the update that set it; `state` is as in /admin/workers."""

    version: int | str | None
    epoch: int
    state: str


class WeightsInfo(msgspec.Struct):
    """`state` is ready, updating or paused; `held` calls wait; `last` is the latest update."""

    state: str
    version: str | None
    epoch: int
    held: int
    workers: dict[str, WorkerWeights]
    last: Report | None


class PauseRequest(msgspec.Struct, forbid_unknown_fields=True):
    mode: Mode = "wait"


class PauseReport(msgspec.Struct):
    """The workers that paused or resumed, and those that failed to."""

    state: str
    ok: list[str]
    failed: dict[str, Failure]


class WeightsAdmin:
    """Updates and pauses the fleet of one gateway, one operation at a time."""

    def __init__(self, gateway: Host, gate: Gate, times: Times) -> None:
        self.versions = Versions(gateway.workers, gate)
        self._gateway = gateway
        self._gate = gate
        self.times = times
        self._state = "ready"
        self._task: asyncio.Task[Response] | None = None
        self._paused: tuple[Team, Pause] | None = None
        self._last: Report | None = None

    async def show(self, _: ControlRequest) -> WeightsInfo:
        workers = {
            worker.id: WorkerWeights(
                worker.weight_version, self.versions.epochs.get(worker.id, 0), worker.info().state
            )
            for worker in self._gateway.workers.all
        }
        versions, held = self.versions, self._gate.held
        return WeightsInfo(self._state, versions.current, versions.epoch, held, workers, self._last)

    async def update(self, request: ControlRequest) -> Response:
        """Respond when the update is over; the update goes on if its caller leaves."""
        wanted = await request.json(UpdateRequest)
        return await self._alone("updating", self._update(wanted))

    async def pause(self, request: ControlRequest) -> Response:
        wanted = await request.json(PauseRequest)
        return await self._alone("pausing", self._pause(wanted.mode))

    async def resume(self, _: ControlRequest) -> Response:
        if self._state != "paused":
            raise BadRequest("the fleet is not paused", code="not_paused")
        self._state = "ready"
        return await self._alone("resuming", self._resume())

    async def close(self) -> None:
        """Cancel what is under way; resume paused engines, even if an operator paused them."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._paused is not None:
            await self._resume()

    async def _alone(self, state: str, running: Coroutine[None, None, Response]) -> Response:
        if self._state != "ready":
            running.close()
            raise WeightsBusy(f"the fleet is {self._state}; GET /admin/weights tells how it goes")
        self._state = state
        self._task = asyncio.create_task(running)
        self._task.add_done_callback(self._over)
        return await asyncio.shield(self._task)

    def _over(self, task: asyncio.Task[Response]) -> None:
        self._state = "ready" if self._paused is None else "paused"
        self.versions.changed()
        if not task.cancelled():
            task.exception()  # the request raises it, if its caller is still there

    async def _update(self, request: UpdateRequest) -> Response:
        team, pause = self._team()
        report = await Update(request, team, pause, self._named(request)).run()
        self._last = report
        log.info("weights %s: %s took them, %s failed", request.version, report.ok, report.failed)
        if report.ok:
            await self.versions.save(self._gateway.storage)
        return _answer(report, well=bool(report.ok))

    async def _pause(self, mode: Mode) -> Response:
        team, pause = self._team()
        await check(team)
        self._paused = team, pause
        try:
            await pause.begin("the fleet is paused", mode)
        except BaseException:
            await self._resume()
            raise
        report = PauseReport("paused", [one.id for one in team.workers], team.failures)
        return _answer(report, well=True)

    async def _resume(self) -> Response:
        assert self._paused is not None
        (team, pause), self._paused = self._paused, None
        await pause.end()
        report = PauseReport("ready", [one.id for one in team.workers], team.failures)
        return _answer(report, well=True)

    def _team(self) -> tuple[Team, Pause]:
        registry = self._gateway.workers
        engines = [Engine(worker, self.times.step_timeout) for worker in registry.all]
        team = Team(engines, self._failed)
        return team, Pause(self._gate, registry, team, drain=self.times.drain)

    def _failed(self, worker: Worker, failure: Failure) -> None:
        doubtful = failure.step not in UNTOUCHED
        self.versions.quarantine(worker, f"{failure.step}: {failure.reason}", doubtful=doubtful)

    def _named(self, request: UpdateRequest) -> Callable[[Worker], None]:
        self.versions.epoch += 1

        def named(worker: Worker) -> None:
            self.versions.took(worker, request.version)

        return named


def _answer(report: Report | PauseReport, *, well: bool) -> Response:
    body = msgspec.json.encode(report)
    return Response(body, 200 if well else 502, media_type="application/json")
