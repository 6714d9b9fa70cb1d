"""Which workers are asked, for which models, and how often until each of them has answered."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from gateway import Config, ConfigError, WorkerInfo, WorkerSettings
from gateway_plugins.trace_capture.cli.doctor import advice
from gateway_plugins.trace_capture.cli.doctor.asking import Doctor, Fields
from gateway_plugins.trace_capture.cli.doctor.doors import Answer, Door
from gateway_plugins.trace_capture.cli.doctor.kinds import NAMES
from gateway_plugins.trace_capture.cli.doctor.results import Check, Problem
from gateway_plugins.trace_capture.cli.doctor.stages import stage

AT_ONCE = 8
"""Workers that are asked at the same time."""

ROUNDS = 3
"""Times that all calls are made for each worker of a gateway that chooses the worker itself."""

MAX_ROUNDS = 48

ALL = "all calls"
"""Stands for the kinds of a worker that cannot be asked at all."""

_WORKER_AWAY = frozenset({502, 503, 504})


class _Card(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Card] = []


class _Fleet(msgspec.Struct):
    workers: list[WorkerInfo]


async def check_workers(
    config: Config, workers: Sequence[WorkerSettings], model: str | None, fields: Fields
) -> list[Check]:
    """Ask each worker through a gateway of its own. Raises ConfigError if one cannot start."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(worker: WorkerSettings) -> list[Check]:
        async with room, stage(config, worker, fields.key) as door:
            return await _check_worker(door, config, worker, model, fields)

    return [check for found in await asyncio.gather(*map(one, workers)) for check in found]


async def _check_worker(
    door: Door, config: Config, worker: WorkerSettings, model: str | None, fields: Fields
) -> list[Check]:
    answer = await door.ask("GET", "/v1/models", seconds=fields.seconds)
    if answer.late or not answer.status or answer.status in _WORKER_AWAY:
        what = "no answer in time" if answer.late else f"{answer.status}: {answer.error}"
        return [_not_asked(worker.worker_id, "unreachable", what, advice.UNREACHABLE)]
    listed = _models(answer)
    named = [model, config.model, worker.model_name, *worker.models, *listed]
    asked = next((name for name in named if name), None)
    if asked is None:
        what = f"GET /v1/models names none (status {answer.status})"
        return [_not_asked(worker.worker_id, "no_model", what, advice.NO_MODEL)]
    names = [name for name in (asked, config.model, worker.model_name) if name]
    return await Doctor(door, asked, names, fields).check_all(worker.worker_id)


async def check_running(door: Door, model: str | None, fields: Fields) -> list[Check]:
    """Ask a gateway that runs until each of its workers has answered each kind of call.

    Raises ConfigError if the gateway does not tell its workers.
    """
    workers = await _workers(door)
    listed = _models(await door.ask("GET", "/v1/models"))
    groups: dict[str, list[WorkerInfo]] = {}
    found = []
    for worker in workers:
        asked = model or next(iter([*(worker.models or ()), *listed]), None)
        if model and worker.models and model not in worker.models:
            continue
        if not worker.healthy:
            what = worker.last_error or f"it is {worker.state}"
            found.append(_not_asked(worker.worker_id, "unreachable", what, advice.UNREACHABLE))
        elif asked is None:
            what = "GET /v1/models names none"
            found.append(_not_asked(worker.worker_id, "no_model", what, advice.NO_MODEL))
        else:
            groups.setdefault(asked, []).append(worker)
    for asked, group in groups.items():
        found += await _check_group(door, asked, group, fields)
    if not found:
        raise ConfigError(f"--model {model}: no worker serves it; GET /health/workers lists them")
    return found


async def _check_group(
    door: Door, model: str, group: Sequence[WorkerInfo], fields: Fields
) -> list[Check]:
    """Ask the workers of a model: all kinds, then those that some worker has not answered."""
    names = [model, *(one.model_name for one in group if one.model_name)]
    doctor = Doctor(door, model, names, fields)
    wanted = [one.worker_id for one in group]
    found: dict[tuple[str, str], Check] = {}
    kinds: Sequence[str] | None = None
    for _ in range(min(ROUNDS * len(wanted), MAX_ROUNDS)):
        for check in await doctor.check_all("", kinds):
            found.setdefault((check.worker, check.kind), check)
        asked = dict.fromkeys(kind for _, kind in found)
        kinds = [kind for kind in asked if any((one, kind) not in found for one in wanted)]
        if not kinds:
            break
    return [
        check
        for worker in dict.fromkeys([*wanted, *(worker for worker, _ in found)])
        for check in _of_worker(worker, found)
    ]


def _of_worker(worker: str, found: Mapping[tuple[str, str], Check]) -> Sequence[Check]:
    """Return the checks of a worker in the order of the kinds; a problem if there are none."""
    checks = [check for (name, _), check in found.items() if name == worker]
    if not checks:
        what = "the gateway sent none of the calls there"
        return [_not_asked(worker, "not_reached", what, advice.NOT_REACHED)]
    return sorted(checks, key=lambda check: NAMES.index(check.kind))


async def _workers(door: Door) -> Sequence[WorkerInfo]:
    answer = await door.ask("GET", "/health/workers")
    if answer.status != 200:
        hint = "; give a key with the scope `monitor`" if answer.status in (401, 403) else ""
        raise ConfigError(f"GET /health/workers: {answer.status}: {answer.error}{hint}")
    try:
        workers = msgspec.json.decode(answer.body, type=_Fleet).workers
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigError("GET /health/workers: this is no gateway of ours") from None
    if not workers:
        raise ConfigError("GET /health/workers: the gateway has no worker")
    return workers


def _models(answer: Answer) -> Sequence[str]:
    try:
        return [card.id for card in msgspec.json.decode(answer.body, type=_Models).data]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []


def _not_asked(worker: str, reason: str, what: str, what_to_do: str) -> Check:
    problem = Problem(reason=reason, what=what, what_to_do=what_to_do)
    return Check(worker=worker, model="", kind=ALL, verdict="INCOMPLETE", problems=(problem,))
