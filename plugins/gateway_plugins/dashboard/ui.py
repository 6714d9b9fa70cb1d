"""The routes `/ui/...`, in the shapes of the system that is replaced.

They answer from memory and the database only, with what the plugins `runtime`, `batch` and
`evaluations` offer as panels; without those plugins the answers are empty.
"""

import time
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import Cell, ControlRequest, Host, PanelRows, StorageError
from gateway_plugins.dashboard.load.calls import AllCalls
from gateway_plugins.dashboard.load.load import depth
from gateway_plugins.dashboard.matrix import Matrix, matrix
from gateway_plugins.dashboard.panels import find, read

MAX_TEXT = 120_000
"""Characters of the log that are returned, the last ones."""

MAX_SCORES = 20_000
"""Scores of which the matrix is made."""

STATUSES: Mapping[str, str] = {
    "hot": "ready",
    "draining": "ready",
    "idle": "stopped",
    "failed": "stopped",
}
"""The words for the phases of a runtime; one that loads is `loading MODEL`."""


class Summary(msgspec.Struct, kw_only=True):
    """The state of the first runtime, and of the calls of all processes. Ages are seconds."""

    current_model: str | None = None
    runtime_ready: bool = False
    runtime_status: str = "not running"
    container_status: str = "not running"
    runtime_http_ok: bool = False
    loading_model: str | None = None
    switching: bool = False
    next_model: str | None = None
    inflight_realtime: int = 0
    inflight_batch: int = 0
    inflight_total: int = 0
    last_runtime_req_age_s: float | None = None
    last_runtime_ok_age_s: float | None = None
    last_runtime_err_age_s: float | None = None
    tokens: float = 0.0
    lambda_ewma: float = 0.0
    last_rt_age_s: float = -1.0
    queue_depth: int = 0


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """A key in an address is refused, as any other parameter is."""


class QueueQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class EvalsQuery(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 50


class LogsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`tail`: the last lines; `since_s`: none older than so many seconds."""

    tail: Annotated[int, Meta(ge=1, le=5_000)] = 200
    since_s: Annotated[float, Meta(ge=0)] | None = None


class QueueItem(msgspec.Struct):
    id: str
    model: str
    status: str
    priority: int
    type: str
    submit_ts: float


class Queue(msgspec.Struct):
    """Items that have not ended. `queued_total`: how many wait."""

    items: list[QueueItem]
    queued_total: int


class EvalItem(msgspec.Struct):
    job_id: str
    model: str
    status: str
    created_at: float


class Evals(msgspec.Struct):
    items: list[EvalItem]


class Logs(msgspec.Struct):
    container_status: str
    text: str
    tail: int


class Ui:
    """The routes."""

    def __init__(self, gateway: Host, calls: AllCalls) -> None:
        self._gateway = gateway
        self._calls = calls

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        control = self._gateway.control
        return [
            control("/ui/summary", scope="monitor", GET=self._summary),
            control("/ui/queue", scope="monitor", GET=self._queue),
            control("/ui/evals", scope="monitor", GET=self._evals),
            control("/ui/eval_matrix", scope="monitor", GET=self._matrix),
            control("/ui/runtime/logs", scope="logs", GET=self._logs),
        ]

    async def _summary(self, request: ControlRequest) -> Summary:
        request.query(NoQuery)
        shown = Summary(queue_depth=await self._depth())
        await self._add_calls(shown)
        self._add_workers(shown)
        for row in (await self._rows("runtime", 1)).rows:
            _add_runtime(shown, row)
        return shown

    async def _add_calls(self, shown: Summary) -> None:
        calls = await self._calls.now()
        sources = calls.sources
        shown.inflight_realtime = sources.get("realtime", 0)
        shown.inflight_batch = sources.get("batch", 0) + sources.get("eval", 0)
        shown.inflight_total = sum(sources.values())
        shown.last_runtime_req_age_s = _age(calls.requested)
        shown.last_runtime_ok_age_s = _age(calls.succeeded)
        shown.last_runtime_err_age_s = _age(calls.failed)
        age = _age(calls.realtime)
        shown.last_rt_age_s = -1.0 if age is None else age

    def _add_workers(self, shown: Summary) -> None:
        fit = [one for one in self._gateway.workers.all if one.fit]
        shown.runtime_http_ok = bool(fit)
        if fit:
            shown.runtime_ready, shown.runtime_status = True, "ready"
            names = sorted(fit[0].models or ())
            shown.current_model = names[0] if names else None

    async def _depth(self) -> int:
        try:
            found = await depth(self._gateway)
        except StorageError:
            return 0  # /health says that the database cannot be read
        return 0 if found is None else found.queued

    async def _queue(self, request: ControlRequest) -> Queue:
        found = await self._rows("queue", request.query(QueueQuery).limit)
        items = [
            QueueItem(
                str(row["id"]),
                str(row["model"]),
                str(row["status"]),
                _whole(row["priority"]),
                str(row["type"]),
                _number(row["submitted_at"]),
            )
            for row in found.rows
        ]
        return Queue(items, len(items) if found.total is None else found.total)

    async def _evals(self, request: ControlRequest) -> Evals:
        found = await self._rows("evaluations", request.query(EvalsQuery).limit)
        return Evals([_eval(row) for row in found.rows])

    async def _matrix(self, request: ControlRequest) -> Matrix:
        request.query(NoQuery)
        return matrix((await self._rows("scores", MAX_SCORES)).rows)

    async def _logs(self, request: ControlRequest) -> Logs:
        query = request.query(LogsQuery)
        found = await self._rows("log", query.tail)
        since = 0.0 if query.since_s is None else time.time() - query.since_s
        lines = [str(row["line"]) for row in found.rows if _number(row["written_at"]) >= since]
        status = "running" if found.rows else "not running"
        return Logs(status, "\n".join(lines)[-MAX_TEXT:], query.tail)

    async def _rows(self, name: str, limit: int) -> PanelRows:
        """Return the rows of a panel, none if no plugin has it. Raises CallError."""
        found = find(self._gateway, name)
        return PanelRows(()) if found is None else await read(self._gateway, found, limit)


def _add_runtime(shown: Summary, row: Mapping[str, Cell]) -> None:
    phase, model = str(row["phase"]), _text(row["model"])
    loading = phase == "loading"
    shown.current_model = None if loading or phase == "failed" else model
    shown.loading_model = model if loading else None
    shown.runtime_ready = phase == "hot"
    shown.runtime_status = f"loading {model}" if loading else STATUSES.get(phase, phase)
    shown.container_status = "running" if phase in ("hot", "draining", "loading") else "exited"
    shown.next_model = _text(row["next"])
    shown.switching = phase in ("draining", "loading")
    shown.tokens = _number(row["tokens"])
    shown.lambda_ewma = _number(row["calls_per_second"])


def _eval(row: Mapping[str, Cell]) -> EvalItem:
    return EvalItem(
        str(row["job_id"]), str(row["model"]), str(row["status"]), _number(row["created_at"])
    )


def _text(cell: Cell) -> str | None:
    return None if cell is None else str(cell)


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0


def _whole(cell: Cell) -> int:
    return int(_number(cell))


def _age(at: float | None) -> float | None:
    return None if at is None else max(time.time() - at, 0.0)
