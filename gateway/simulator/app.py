"""The simulator as an ASGI application."""

from random import Random
from secrets import token_hex

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.simulator import development
from gateway.simulator.api import other
from gateway.simulator.api.chat import prepare_chat
from gateway.simulator.api.completions import prepare_completions
from gateway.simulator.api.messages.messages import counting, prepare_messages
from gateway.simulator.api.responses import routes as answers
from gateway.simulator.api.responses.responses import Responses, in_responses
from gateway.simulator.api.tokens import routes as tokens
from gateway.simulator.api.tokens.generate import prepare_generate
from gateway.simulator.breaking import FaultInjector
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.development import Control
from gateway.simulator.faults import Faults
from gateway.simulator.generation import GenerationEndpoint
from gateway.simulator.input.envelopes import in_messages
from gateway.simulator.input.refusals import Refused
from gateway.simulator.monitor import Monitor

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")


class SimulatorApp:
    """A stand-in engine, to be served by `Simulator`, `serve` or any ASGI server.

    Faults that break connections need `Simulator` or `serve`.
    """

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.monitor = Monitor(config.model, config.max_model_len)
        self.control = Control()
        self.responses = Responses(config)
        self._injector = FaultInjector(
            _router(config, self.monitor, self.control, self.responses), config
        )
        headed = _AnswerHeaders(self._injector, config.request_id_headers)
        self._outermost: ASGIApp = _Guard(headed, config.api_key) if config.api_key else headed

    @property
    def faults(self) -> Faults:
        """The faults that apply to all callers; may be replaced while serving."""
        return self._injector.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._injector.faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._outermost(scope, receive, send)

    async def close(self) -> None:
        """End what runs in the background."""
        await self.responses.store.close()


def create_simulator(config: SimulatorConfig | None = None) -> SimulatorApp:
    """Return a stand-in engine with the wire behaviour of vLLM 0.32."""
    return SimulatorApp(config or SimulatorConfig())


def _router(
    config: SimulatorConfig, monitor: Monitor, control: Control, responses: Responses
) -> Starlette:
    fresh = Random(config.seed)
    chat = GenerationEndpoint(prepare_chat, config, monitor, control, fresh)
    completions = GenerationEndpoint(prepare_completions, config, monitor, control, fresh)
    messages = GenerationEndpoint(prepare_messages, config, monitor, control, fresh, in_messages)
    answer = GenerationEndpoint(responses.prepare, config, monitor, control, fresh, in_responses)
    generate = GenerationEndpoint(prepare_generate, config, monitor, control, fresh)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", counting(config), methods=["POST"]),
            *answers.routes(config, responses, answer),
            *tokens.routes(config, control, generate, responses.prepare),
            *other.routes(config, monitor, control),
            *(development.routes(config, control) if config.development else ()),
        ],
        exception_handlers={Refused: _refused, HTTPException: _no_such_route},
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if error.stream is not None:
        return StreamingResponse(iter((error.stream,)), media_type="text/event-stream")
    return Response(error.body(), error.status, media_type="application/json")


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


class _Guard:
    """Requires the API key on the paths that vLLM guards; other paths are open."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._accepted = f"Bearer {api_key}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_GUARDED):
            given = Headers(scope=scope).get("authorization")
            if given != self._accepted:
                refusal = JSONResponse({"error": "Unauthorized"}, 401)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _AnswerHeaders:
    """Adds the headers that every response of the engine has."""

    def __init__(self, app: ASGIApp, request_ids: bool) -> None:
        self._app = app
        self._request_ids = request_ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["vary"] = "Origin"
                if self._request_ids:
                    given = Headers(scope=scope).get("x-request-id")
                    headers["x-request-id"] = given or token_hex(16)
            await send(message)

        await self._app(scope, receive, send_with_headers)
