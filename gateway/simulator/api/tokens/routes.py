"""The routes of token ids in and out, which exist only with `SimulatorConfig(scale_out=True)`."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.simulator.api.chat import prepare_chat
from gateway.simulator.api.completions import prepare_completions
from gateway.simulator.api.messages.messages import prepare_messages
from gateway.simulator.api.tokens.derender import derender_chat, derender_completion
from gateway.simulator.api.tokens.rendered import Rendered, of_reasoning, of_responses, rendered
from gateway.simulator.caller import read_body
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.development import Control
from gateway.simulator.generation import Prepare
from gateway.simulator.input.refusals import no_scale_out, wrong_media_type

Derender = Callable[[bytes, SimulatorConfig], msgspec.Struct]

_RENDERS: dict[str, Prepare] = {
    "/v1/chat/completions": prepare_chat,
    "/v1/completions": prepare_completions,
    "/v1/messages": prepare_messages,
}
_DERENDERS: dict[str, Derender] = {
    "/v1/chat/completions": derender_chat,
    "/v1/completions": derender_completion,
}
_GENERATE = "/inference/v1/generate"
_ABORT = "/inference/v1/abort_requests"


class _Abort(msgspec.Struct, frozen=True):
    request_ids: list[str] | None = None


def routes(
    config: SimulatorConfig, control: Control, generate: ASGIApp, responses: Prepare
) -> list[Route]:
    """Return the routes for one simulator; `generate` is the endpoint that generates.

    `responses` prepares calls of Responses.
    """
    preparing = {**_RENDERS, "/v1/responses": responses}
    if not config.scale_out:
        paths = [f"{path}/render" for path in preparing]
        paths += [f"{path}/derender" for path in _DERENDERS]
        return [Route(path, _refuse, methods=["POST"]) for path in (*paths, _GENERATE, _ABORT)]
    renders = (_post(f"{path}/render", _render(one, config)) for path, one in preparing.items())
    derenders = (
        _post(f"{path}/derender", _derender(one, config)) for path, one in _DERENDERS.items()
    )
    abort = _post(_ABORT, _aborting(control))
    return [Route(_GENERATE, generate, methods=["POST"]), abort, *renders, *derenders]


def _post(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(path, endpoint, methods=["POST"])


async def _refuse(request: Request) -> Response:
    raise no_scale_out()


def _render(prepare: Prepare, config: SimulatorConfig) -> Callable[[Request], Awaitable[Response]]:
    async def render(request: Request) -> Response:
        body = await _json_body(request)
        prepared = prepare(body, request.headers.get("x-request-id"), config)
        found = rendered(prepared.plan, prepared.answer.name, config.max_model_len)
        if config.reasoning and prepare is not prepare_completions:
            found = list(map(of_reasoning, found))
        if request.url.path.startswith("/v1/responses"):
            found = list(map(of_responses, found))
        whole: Rendered | list[Rendered] = found if prepare is prepare_completions else found[0]
        return Response(msgspec.json.encode(whole), media_type="application/json")

    return render


def _derender(
    derender: Derender, config: SimulatorConfig
) -> Callable[[Request], Awaitable[Response]]:
    async def derendered(request: Request) -> Response:
        answer = derender(await _json_body(request), config)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return derendered


def _aborting(control: Control) -> Callable[[Request], Awaitable[Response]]:
    async def abort_requests(request: Request) -> Response:
        try:
            asked = msgspec.json.decode(await read_body(request.receive), type=_Abort)
        except msgspec.DecodeError as error:
            raise HTTPException(400, f"JSON decode error: {error}") from None
        if asked.request_ids is None:
            raise HTTPException(400, "Missing 'request_ids' in request body")
        if asked.request_ids:
            control.abort(tuple(asked.request_ids))
        return Response()

    return abort_requests


async def _json_body(request: Request) -> bytes:
    body = await read_body(request.receive)
    if body and not request.headers.get("content-type", "").startswith("application/json"):
        raise wrong_media_type()
    return body
