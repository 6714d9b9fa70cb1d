"""The requests that the clients can send to a gateway, and how each response is decoded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from gateway.control.workers import WorkersHealth
from gateway.errors import NOT_JSON
from gateway.fleet.worker import WorkerInfo
from gateway.trace import Reward, SessionInfo, Trace, Trajectories, Verdict

T = TypeVar("T")

NEXT = "x-next-cursor"


class GatewayClientError(Exception):
    """The gateway rejected a request, or could not be reached.

    `status` is the HTTP status, None if there was no response. `code` and `param` are from the
    gateway's error body; None if the response has none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param


class Ask(msgspec.Struct, Generic[T], frozen=True):
    """One request. `body` is sent as JSON; None values in `params` and `body` are left out."""

    answer: type[T]
    method: str
    path: str
    params: Mapping[str, Any] = {}
    body: Mapping[str, Any] | None = None

    def request(self, gateway_url: str) -> dict[str, Any]:
        """Arguments for `request` of an httpx client."""
        found: dict[str, Any] = {
            "method": self.method,
            "url": gateway_url + self.path,
            "params": _given(self.params),
        }
        if self.body is not None:
            found["content"] = msgspec.json.encode(_given(self.body))
            found["headers"] = {"content-type": "application/json"}
        return found

    def read(self, response: httpx.Response) -> T:
        """Decode the response. Raises GatewayClientError if it is an error or cannot be decoded."""
        if not response.is_success:
            raise _refusal(self, response)
        try:
            return msgspec.json.decode(response.content, type=self.answer)
        except NOT_JSON as error:
            raise GatewayClientError(
                f"{self.method} {self.path}: what answers is not a gateway: {error}",
                status=response.status_code,
            ) from None

    @contextmanager
    def sent(self) -> Iterator[None]:
        """Turn httpx's errors in the block into a GatewayClientError."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = f"{type(error).__name__}: {error}"
            raise GatewayClientError(f"{self.method} {self.path}: {said}") from error


class Created(msgspec.Struct):
    session_id: str
    url: str


class Deleted(msgspec.Struct):
    deleted: int = 0


class Status(msgspec.Struct):
    status: str


class Version(msgspec.Struct):
    weight_version: int | None


class Added(msgspec.Struct):
    worker_id: str


class Removed(msgspec.Struct):
    removed: str


def url_of(gateway_url: str) -> str:
    return gateway_url.rstrip("/")


def headers_of(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


def session_path(session_id: str, tail: str = "") -> str:
    return f"/sessions/{quote(session_id, safe='')}{tail}"


def create_session(
    session_id: str | None,
    metadata: Mapping[str, Any] | None,
    sampling_params: Mapping[str, Any] | None,
    tito: str | None = None,
) -> Ask[Created]:
    body = {
        "session_id": session_id or None,
        "metadata": metadata,
        "sampling_params": sampling_params,
        **({} if tito is None else {"tito": tito}),
    }
    return Ask(Created, "POST", "/sessions", body=body)


def session_info(session_id: str) -> Ask[SessionInfo]:
    return Ask(SessionInfo, "GET", session_path(session_id))


def list_sessions(since: float | None, limit: int | None) -> Ask[list[SessionInfo]]:
    return Ask(list[SessionInfo], "GET", "/sessions", {"since": since, "limit": limit})


def delete_session(session_id: str) -> Ask[Deleted]:
    return Ask(Deleted, "DELETE", session_path(session_id))


def delete_sessions(session_ids: Sequence[str]) -> Ask[Deleted]:
    body = {"session_ids": list(session_ids)}
    return Ask(Deleted, "POST", "/sessions/batch_delete", body=body)


def session_traces(
    session_id: str, since: float | None, limit: int | None, cursor: str | None = None
) -> Ask[list[Trace]]:
    params = {"since": since, "limit": limit, "cursor": cursor}
    return Ask(list[Trace], "GET", session_path(session_id, "/traces"), params)


def get_trace(trace_id: str) -> Ask[Trace]:
    return Ask(Trace, "GET", f"/traces/{quote(trace_id, safe='')}")


def query_traces(
    session_ids: Sequence[str] | None,
    since: float | None,
    until: float | None,
    model: str | None,
    verdict: Verdict | None,
    limit: int | None,
) -> Ask[list[Trace]]:
    body = {
        "session_ids": None if session_ids is None else list(session_ids),
        "since": since,
        "until": until,
        "model": model,
        "verdict": verdict,
        "limit": limit,
    }
    return Ask(list[Trace], "POST", "/traces/query", body=body)


def trajectories(session_id: str, fork_kinds: Sequence[str] | None) -> Ask[Trajectories]:
    kinds = None if fork_kinds is None else ",".join(fork_kinds)
    path = session_path(session_id, "/trajectories")
    return Ask(Trajectories, "GET", path, params={"fork_kind": kinds})


def add_reward(session_id: str, value: float, source: str, trace_id: str | None) -> Ask[Reward]:
    body = {"value": value, "source": source, "trace_id": trace_id}
    return Ask(Reward, "POST", session_path(session_id, "/rewards"), body=body)


def rewards(session_id: str) -> Ask[list[Reward]]:
    return Ask(list[Reward], "GET", session_path(session_id, "/rewards"))


def weight_version() -> Ask[Version]:
    return Ask(Version, "GET", "/admin/weight_version")


def set_weight_version(version: int) -> Ask[Version]:
    return Ask(Version, "POST", "/admin/weight_version", body={"weight_version": version})


def add_worker(
    url: str, api_path: str | None, model_name: str | None, weight: float, worker_id: str | None
) -> Ask[Added]:
    body = {
        "url": url,
        "api_path": api_path,
        "model_name": model_name or None,
        "weight": weight,
        "worker_id": worker_id,
    }
    return Ask(Added, "POST", "/admin/workers", body=body)


def remove_worker(worker_id: str) -> Ask[Removed]:
    return Ask(Removed, "DELETE", f"/admin/workers/{quote(worker_id, safe='')}")


def list_workers() -> Ask[list[WorkerInfo]]:
    return Ask(list[WorkerInfo], "GET", "/admin/workers")


def health_workers() -> Ask[WorkersHealth]:
    return Ask(WorkersHealth, "GET", "/health/workers")


def flush() -> Ask[Status]:
    return Ask(Status, "POST", "/admin/flush")


def health() -> Ask[dict[str, Any]]:
    return Ask(dict[str, Any], "GET", "/health")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class _Said(msgspec.Struct):
    message: str
    code: str | None = None
    param: str | None = None


class _Envelope(msgspec.Struct):
    error: _Said


def _refusal(ask: Ask[T], response: httpx.Response) -> GatewayClientError:
    try:
        said = msgspec.json.decode(response.content, type=_Envelope).error
    except NOT_JSON:
        said = _Said(response.text[:200] or response.reason_phrase)
    return GatewayClientError(
        f"{ask.method} {ask.path}: {response.status_code}: {said.message}",
        status=response.status_code,
        code=said.code,
        param=said.param,
    )
