"""GatewayClient, for code without an event loop."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx

from gateway.admin import WorkersHealth
from gateway.client import asks
from gateway.client.asks import NEXT, Ask
from gateway.trace import Reward, SessionInfo, Trace, Trajectories, Verdict
from gateway.worker import WorkerInfo

T = TypeVar("T")


class GatewayClient:
    """Asks a gateway at `gateway_url`. All methods raise GatewayClientError.

    `timeout` is in seconds; `api_key` is sent as `Authorization: Bearer`. Use it from any thread,
    and close it, or use it in a `with` block.
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
    ) -> str:
        """Its id, a new one where none is given. Of one that exists, what is given is replaced.

        `sampling_params` overwrite what its calls ask for.
        """
        return self._ask(asks.create_session(session_id, metadata, sampling_params)).session_id

    def get_session_url(self, session_id: str) -> str:
        """The base URL for the session's OpenAI client."""
        return self.gateway_url + asks.session_path(session_id, "/v1")

    def get_session_info(self, session_id: str) -> SessionInfo:
        return self._ask(asks.session_info(session_id))

    def list_sessions(
        self, since: float | None = None, limit: int | None = None
    ) -> list[SessionInfo]:
        """Those created at `since` (Unix seconds) or later, oldest first."""
        return self._ask(asks.list_sessions(since, limit))

    def delete_session(self, session_id: str) -> int:
        """How many traces went with it; 0 for one that is not known."""
        return self._ask(asks.delete_session(session_id)).deleted

    def delete_sessions(self, session_ids: Sequence[str]) -> int:
        """How many traces went with them."""
        return self._ask(asks.delete_sessions(session_ids)).deleted

    def get_session_traces(
        self, session_id: str, since: float | None = None, limit: int | None = None
    ) -> list[Trace]:
        """Oldest first; none for a session that is not known."""
        return self._ask(asks.session_traces(session_id, since, limit))

    def iter_traces(
        self, session_id: str, since: float | None = None, page: int = 200
    ) -> Iterator[Trace]:
        """The same, `page` of them in memory at a time."""
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
        """Traces of these sessions, or of all and none, that began from `since` to `until`."""
        return self._ask(asks.query_traces(session_ids, since, until, model, verdict, limit))

    def trajectories(self, session_id: str) -> Trajectories:
        """The branches of a session, each as one sequence of tokens."""
        return self._ask(asks.trajectories(session_id))

    def add_reward(
        self, session_id: str, value: float, source: str = "", trace_id: str | None = None
    ) -> Reward:
        """`value` must be finite; `trace_id` is that of a trace of the session."""
        return self._ask(asks.add_reward(session_id, value, source, trace_id))

    def rewards(self, session_id: str) -> list[Reward]:
        """In the order in which they were given."""
        return self._ask(asks.rewards(session_id))

    def get_weight_version(self) -> int | None:
        return self._ask(asks.weight_version()).weight_version

    def set_weight_version(self, version: int) -> None:
        """Calls from now on bear it, unless the engine stamps its own."""
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
        """The worker's id. A path in `url` is its `api_path`, which is /v1 without one."""
        return self._ask(asks.add_worker(url, api_path, model_name, weight, worker_id)).worker_id

    def remove_worker(self, worker_id: str) -> None:
        """Calls in flight at it finish."""
        self._ask(asks.remove_worker(worker_id))

    def list_workers(self) -> list[WorkerInfo]:
        return self._ask(asks.list_workers())

    def health_workers(self) -> WorkersHealth:
        return self._ask(asks.health_workers())

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all that was captured before can be read; answered calls can be anyhow."""
        return self._ask(asks.flush(), timeout=timeout).status == "flushed"

    def health(self) -> dict[str, Any]:
        """`{"status": "ok"}`, or "degraded" and the `reason`."""
        return self._ask(asks.health())

    def _ask(self, ask: Ask[T], **options: Any) -> T:
        return ask.read(self._send(ask, **options))

    def _send(self, ask: Ask[Any], **options: Any) -> httpx.Response:
        with ask.sent():
            return self._http.request(**ask.request(self.gateway_url), **options)
