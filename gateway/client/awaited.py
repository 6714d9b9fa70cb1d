"""AsyncGatewayClient: GatewayClient with coroutines."""

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from gateway.client import asks, claims, taking
from gateway.client.asks import NEXT, Ask
from gateway.client.claims import ClaimedTrajectory, Claims, ClaimsChanged
from gateway.control.workers import WorkersHealth
from gateway.fleet.worker import WorkerInfo
from gateway.trace import Reward, SessionInfo, Trace, Trajectories, Verdict

T = TypeVar("T")


class AsyncGatewayClient:
    """GatewayClient with the same methods as coroutines, for one event loop; see GatewayClient."""

    def __init__(
        self, gateway_url: str, timeout: float = 30.0, *, api_key: str | None = None
    ) -> None:
        self.gateway_url = asks.url_of(gateway_url)
        self._http = httpx.AsyncClient(timeout=timeout, headers=asks.headers_of(api_key))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def create_session(
        self,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        sampling_params: Mapping[str, Any] | None = None,
        tito: str | None = None,
    ) -> str:
        ask = asks.create_session(session_id, metadata, sampling_params, tito)
        return (await self._ask(ask)).session_id

    def get_session_url(self, session_id: str) -> str:
        return self.gateway_url + asks.session_path(session_id, "/v1")

    async def get_session_info(self, session_id: str) -> SessionInfo:
        return await self._ask(asks.session_info(session_id))

    async def list_sessions(
        self, since: float | None = None, limit: int | None = None
    ) -> list[SessionInfo]:
        return await self._ask(asks.list_sessions(since, limit))

    async def delete_session(self, session_id: str) -> int:
        return (await self._ask(asks.delete_session(session_id))).deleted

    async def delete_sessions(self, session_ids: Sequence[str]) -> int:
        return (await self._ask(asks.delete_sessions(session_ids))).deleted

    async def get_session_traces(
        self, session_id: str, since: float | None = None, limit: int | None = None
    ) -> list[Trace]:
        return await self._ask(asks.session_traces(session_id, since, limit))

    async def iter_traces(
        self, session_id: str, since: float | None = None, page: int = 200
    ) -> AsyncIterator[Trace]:
        cursor: str | None = ""
        while cursor is not None:
            ask = asks.session_traces(session_id, since, page, cursor or None)
            response = await self._send(ask)
            for trace in ask.read(response):
                yield trace
            cursor = response.headers.get(NEXT)

    async def get_trace(self, trace_id: str) -> Trace:
        return await self._ask(asks.get_trace(trace_id))

    async def query_traces(
        self,
        session_ids: Sequence[str] | None = None,
        since: float | None = None,
        limit: int | None = None,
        *,
        until: float | None = None,
        model: str | None = None,
        verdict: Verdict | None = None,
    ) -> list[Trace]:
        return await self._ask(asks.query_traces(session_ids, since, until, model, verdict, limit))

    async def trajectories(
        self, session_id: str, fork_kinds: Sequence[str] | None = None
    ) -> Trajectories:
        return await self._ask(asks.trajectories(session_id, fork_kinds))

    async def claim_trajectories(
        self,
        n: int = 1,
        lease: float | None = None,
        where: Mapping[str, Any] | None = None,
        *,
        order: str | None = None,
        drop_stale: bool = False,
    ) -> Claims:
        return await self._ask(claims.claim(n, lease, order, where, drop_stale=drop_stale))

    async def acknowledge(self, receipts: Sequence[str]) -> ClaimsChanged:
        return await self._ask(claims.acknowledge(receipts))

    async def release(self, receipts: Sequence[str]) -> ClaimsChanged:
        return await self._ask(claims.release(receipts))

    async def extend(self, receipts: Sequence[str], lease: float | None = None) -> ClaimsChanged:
        return await self._ask(claims.extend(receipts, lease))

    def iter_claims(
        self,
        n: int = 1,
        lease: float = 300.0,
        where: Mapping[str, Any] | None = None,
        *,
        order: str | None = None,
        drop_stale: bool = False,
        wait: float | None = None,
        poll: float = 1.0,
    ) -> AsyncIterator[list[ClaimedTrajectory]]:
        ask = claims.claim(n, lease, order, where, drop_stale=drop_stale)
        return taking.batches_awaited(
            self, partial(self._ask, ask), taking.Taking(lease, wait, poll)
        )

    async def add_reward(
        self, session_id: str, value: float, source: str = "", trace_id: str | None = None
    ) -> Reward:
        return await self._ask(asks.add_reward(session_id, value, source, trace_id))

    async def rewards(self, session_id: str) -> list[Reward]:
        return await self._ask(asks.rewards(session_id))

    async def get_weight_version(self) -> int | None:
        return (await self._ask(asks.weight_version())).weight_version

    async def set_weight_version(self, version: int) -> None:
        await self._ask(asks.set_weight_version(version))

    async def add_worker(
        self,
        url: str,
        api_path: str | None = None,
        model_name: str | None = None,
        weight: float = 1,
        *,
        worker_id: str | None = None,
    ) -> str:
        ask = asks.add_worker(url, api_path, model_name, weight, worker_id)
        return (await self._ask(ask)).worker_id

    async def remove_worker(self, worker_id: str) -> None:
        await self._ask(asks.remove_worker(worker_id))

    async def list_workers(self) -> list[WorkerInfo]:
        return await self._ask(asks.list_workers())

    async def health_workers(self) -> WorkersHealth:
        return await self._ask(asks.health_workers())

    async def flush(self, timeout: float = 30.0) -> bool:  # noqa: ASYNC109  as GatewayClient has it
        return (await self._ask(asks.flush(), timeout=timeout)).status == "flushed"

    async def health(self) -> dict[str, Any]:
        return await self._ask(asks.health())

    async def _ask(self, ask: Ask[T], **options: Any) -> T:
        return ask.read(await self._send(ask, **options))

    async def _send(self, ask: Ask[Any], **options: Any) -> httpx.Response:
        with ask.sent():
            return await self._http.request(**ask.request(self.gateway_url), **options)
