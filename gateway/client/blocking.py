"""GatewayClient, for code without an event loop."""

from collections.abc import Iterator, Mapping, Sequence
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


class GatewayClient:
    """Client of the gateway at `gateway_url`. All methods raise GatewayClientError.

    `timeout` is in seconds; `api_key` is sent as `Authorization: Bearer`. A client may be used from
    any thread; close it, or use it in a `with` block.
    """

    def __init__(
        self, gateway_url: str, timeout: float = 30.0, *, api_key: str | None = None
    ) -> None:
        self.gateway_url = asks.url_of(gateway_url)
        self._http = httpx.Client(timeout=timeout, headers=asks.headers_of(api_key))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def create_session(
        self,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        sampling_params: Mapping[str, Any] | None = None,
        tito: str | None = None,
    ) -> str:
        """Create a session and return its id, a new one if `session_id` is None.

        If the session exists, the given `metadata` and `sampling_params` replace its own.
        `sampling_params` override those in the session's calls. `tito` (off, prefer, require) is
        for token-in/token-out.
        """
        ask = asks.create_session(session_id, metadata, sampling_params, tito)
        return self._ask(ask).session_id

    def get_session_url(self, session_id: str) -> str:
        """Base URL for the session's OpenAI client."""
        return self.gateway_url + asks.session_path(session_id, "/v1")

    def get_session_info(self, session_id: str) -> SessionInfo:
        return self._ask(asks.session_info(session_id))

    def list_sessions(
        self, since: float | None = None, limit: int | None = None
    ) -> list[SessionInfo]:
        """Sessions created at `since` (Unix seconds) or later, oldest first."""
        return self._ask(asks.list_sessions(since, limit))

    def delete_session(self, session_id: str) -> int:
        """Delete a session and return the number of traces deleted; 0 if it is unknown."""
        return self._ask(asks.delete_session(session_id)).deleted

    def delete_sessions(self, session_ids: Sequence[str]) -> int:
        """Delete sessions and return the number of traces deleted."""
        return self._ask(asks.delete_sessions(session_ids)).deleted

    def get_session_traces(
        self, session_id: str, since: float | None = None, limit: int | None = None
    ) -> list[Trace]:
        """Traces of a session, oldest first; empty if the session is unknown."""
        return self._ask(asks.session_traces(session_id, since, limit))

    def iter_traces(
        self, session_id: str, since: float | None = None, page: int = 200
    ) -> Iterator[Trace]:
        """Yield the traces of `get_session_traces`, with at most `page` in memory."""
        cursor: str | None = ""
        while cursor is not None:
            ask = asks.session_traces(session_id, since, page, cursor or None)
            response = self._send(ask)
            yield from ask.read(response)
            cursor = response.headers.get(NEXT)

    def get_trace(self, trace_id: str) -> Trace:
        return self._ask(asks.get_trace(trace_id))

    def query_traces(
        self,
        session_ids: Sequence[str] | None = None,
        since: float | None = None,
        limit: int | None = None,
        *,
        until: float | None = None,
        model: str | None = None,
        verdict: Verdict | None = None,
    ) -> list[Trace]:
        """Traces that began from `since` to `until` (Unix seconds) and match the other arguments.

        If `session_ids` is None, traces of all sessions and traces without a session.
        """
        return self._ask(asks.query_traces(session_ids, since, until, model, verdict, limit))

    def trajectories(
        self, session_id: str, fork_kinds: Sequence[str] | None = None
    ) -> Trajectories:
        """Trajectories of a session: each branch as one sequence of tokens.

        Only the branches of these `fork_kinds`, "none" for those that leave no other; None: all.
        """
        return self._ask(asks.trajectories(session_id, fork_kinds))

    def claim_trajectories(
        self,
        n: int = 1,
        lease: float | None = None,
        where: Mapping[str, Any] | None = None,
        *,
        order: str | None = None,
        drop_stale: bool = False,
    ) -> Claims:
        """Claim up to `n` trajectories for `lease` seconds (None: the gateway's default).

        `where` is the filter and `order` "age" or "version", see docs/handover.md. With
        `drop_stale`, those that are too old by the filter are never handed out.
        """
        return self._ask(claims.claim(n, lease, order, where, drop_stale=drop_stale))

    def acknowledge(self, receipts: Sequence[str]) -> ClaimsChanged:
        """Say that claims were trained on; `failed` has those that cannot be acknowledged."""
        return self._ask(claims.acknowledge(receipts))

    def release(self, receipts: Sequence[str]) -> ClaimsChanged:
        """Give claims back, to be handed out again."""
        return self._ask(claims.release(receipts))

    def extend(self, receipts: Sequence[str], lease: float | None = None) -> ClaimsChanged:
        """Have the leases of claims end `lease` seconds from now."""
        return self._ask(claims.extend(receipts, lease))

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
    ) -> Iterator[list[ClaimedTrajectory]]:
        """Yield batches of 1 to `n` claimed trajectories.

        When the loop asks for the next batch, the one before is acknowledged. If its body raises,
        or leaves the loop, it is released. Meanwhile its lease is extended. The loop ends when
        there was nothing to claim for `wait` seconds, never if that is None; `poll` is the time
        between two looks. Raises GatewayClientError, also if a batch cannot be acknowledged because
        others have it.
        """
        ask = claims.claim(n, lease, order, where, drop_stale=drop_stale)
        return taking.batches(self, partial(self._ask, ask), taking.Taking(lease, wait, poll))

    def add_reward(
        self, session_id: str, value: float, source: str = "", trace_id: str | None = None
    ) -> Reward:
        """Add a reward; `value` must be finite, and `trace_id` names a trace of the session."""
        return self._ask(asks.add_reward(session_id, value, source, trace_id))

    def rewards(self, session_id: str) -> list[Reward]:
        """Rewards of a session, in the order in which they were added."""
        return self._ask(asks.rewards(session_id))

    def get_weight_version(self) -> int | None:
        return self._ask(asks.weight_version()).weight_version

    def set_weight_version(self, version: int) -> None:
        """Record `version` with calls from now on, unless the engine reports its own."""
        self._ask(asks.set_weight_version(version))

    def add_worker(
        self,
        url: str,
        api_path: str | None = None,
        model_name: str | None = None,
        weight: float = 1,
        *,
        worker_id: str | None = None,
    ) -> str:
        """Add a worker and return its id. `api_path` defaults to the path of `url`, else /v1."""
        return self._ask(asks.add_worker(url, api_path, model_name, weight, worker_id)).worker_id

    def remove_worker(self, worker_id: str) -> None:
        """Remove a worker; its calls in flight finish."""
        self._ask(asks.remove_worker(worker_id))

    def list_workers(self) -> list[WorkerInfo]:
        return self._ask(asks.list_workers())

    def health_workers(self) -> WorkersHealth:
        return self._ask(asks.health_workers())

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all traces captured so far can be read; those of ended calls normally can."""
        return self._ask(asks.flush(), timeout=timeout).status == "flushed"

    def health(self) -> dict[str, Any]:
        """`{"status": "ok"}`, or "degraded" and the `reason`."""
        return self._ask(asks.health())

    def _ask(self, ask: Ask[T], **options: Any) -> T:
        return ask.read(self._send(ask, **options))

    def _send(self, ask: Ask[Any], **options: Any) -> httpx.Response:
        with ask.sent():
            return self._http.request(**ask.request(self.gateway_url), **options)
