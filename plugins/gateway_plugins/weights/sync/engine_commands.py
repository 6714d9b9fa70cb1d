"""Requests to one engine during an update: vLLM's development endpoints and their responses.

The endpoints exist if vLLM was started with `VLLM_SERVER_DEV_MODE=1`, see `vllm/entrypoints/serve`.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway import UpstreamError, UpstreamTimeout, Worker

T = TypeVar("T")

Mode = Literal["wait", "keep", "abort"]
"""Running generations either finish, are frozen in place, or are cut short."""

MAX_QUOTED = 300
"""Maximum characters of an engine's error response that are passed on."""

JSON = ((b"content-type", b"application/json"),)


class UpdateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An update: the `version` that the weights will have, and how the engines get them.

    With `update_info`, through vLLM's weight transfer (start, update, finish); else through the
    engine's own `method` with `kwargs`, the same on every worker. `mode` decides what happens to
    running calls.
    """

    version: Annotated[str, Meta(min_length=1, max_length=256)]
    method: Annotated[str, Meta(pattern=r"^[A-Za-z]\w{0,99}$")] = "reload_weights"
    kwargs: dict[str, Any] = {}
    update_info: dict[str, Any] | None = None
    mode: Mode = "wait"
    reset_prefix_cache: bool = True


class StepFailed(Exception):
    """The worker did not carry out a step; the text is the reason."""


class NoEndpoint(StepFailed):
    """The engine has no such endpoint."""


class Unreachable(StepFailed):
    """No connection: the engine is gone, and the next one will be another engine."""


class _Version(msgspec.Struct):
    weight_version: str


class _Success(msgspec.Struct):
    success: bool


class _Paused(msgspec.Struct):
    is_paused: bool


class Engine:
    """One worker's engine; a request may take `timeout` s. All methods raise StepFailed."""

    def __init__(self, worker: Worker, timeout: float) -> None:
        self.worker = worker
        self._timeout = timeout

    async def version(self) -> str:
        return _read(await self._request("GET", "/weight_info"), _Version).weight_version

    async def is_paused(self) -> bool:
        return _read(await self._request("GET", "/is_paused"), _Paused).is_paused

    async def pause(self, mode: Mode) -> None:
        await self._request("POST", f"/pause?mode={mode}")

    async def resume(self) -> None:
        await self._request("POST", "/resume")

    async def call(self, request: UpdateRequest) -> None:
        body = {"method": request.method, "kwargs": request.kwargs}
        await self._request("POST", "/collective_rpc", body)

    async def start(self) -> None:
        await self._request("POST", "/start_weight_update", {})

    async def update(self, request: UpdateRequest) -> None:
        await self._request("POST", "/update_weights", {"update_info": request.update_info})

    async def finish(self) -> None:
        await self._request("POST", "/finish_weight_update", {})

    async def forget_prefixes(self, mode: Mode) -> None:
        """Reset the prefix cache.

        Frozen calls keep their prefixes in use, so in mode `keep` the engine recomputes these
        calls.
        """
        query = "?reset_running_requests=true" if mode == "keep" else ""
        if not _read(await self._request("POST", f"/reset_prefix_cache{query}"), _Success).success:
            raise StepFailed("the engine still uses its prefix cache")

    async def name(self, version: str) -> None:
        await self._request("POST", "/update_weight_version", {"new_version": version})

    async def _request(self, method: str, path: str, body: object = None) -> bytes:
        sent = b"" if body is None else msgspec.json.encode(body)
        try:
            answer = await self.worker.request(
                method, path, sent, headers=JSON, timeout=self._timeout
            )
        except (UpstreamError, UpstreamTimeout) as error:
            gone = error.code == "upstream_connect_failed"
            raise (Unreachable if gone else StepFailed)(error.message) from None
        path = path.partition("?")[0]
        if answer.status == 404:
            raise NoEndpoint(f"the engine has no {path}: start vLLM with VLLM_SERVER_DEV_MODE=1")
        if answer.status != 200:
            said = answer.body.decode(errors="replace").strip()[:MAX_QUOTED]
            raise StepFailed(f"{path} was answered {answer.status}: {said}")
        return answer.body


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = body.decode(errors="replace")[:MAX_QUOTED]
        raise StepFailed(f"the engine's answer cannot be read: {said}") from None
