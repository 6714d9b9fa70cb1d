"""The endpoints that generate nothing: the model, its tokens, health and load."""

import time
from secrets import token_hex

import msgspec
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.simulator.api.answers import VERSION
from gateway.simulator.api.template import chat_ids
from gateway.simulator.caller import read_body
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.development import Control
from gateway.simulator.engine.tokens import decode, encode, piece_text
from gateway.simulator.input.refusals import bad_request, parse
from gateway.simulator.input.requests import DetokenizeRequest, TokenizeRequest
from gateway.simulator.monitor import Monitor
from gateway.simulator.preparing import check_ids, check_model


class ModelPermission(msgspec.Struct, kw_only=True):
    id: str
    object: str = "model_permission"
    created: int
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: None = None
    is_blocking: bool = False


class Model(msgspec.Struct, kw_only=True):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "vllm"
    root: str
    parent: None = None
    max_model_len: int
    permission: list[ModelPermission]


class Models(msgspec.Struct, kw_only=True):
    object: str = "list"
    data: list[Model]


class Tokenized(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(msgspec.Struct):
    prompt: str


class Load(msgspec.Struct):
    server_load: int


class Version(msgspec.Struct):
    version: str


def routes(config: SimulatorConfig, monitor: Monitor, control: Control) -> list[Route]:
    """Return the routes of the endpoints that generate nothing, for one simulator."""
    endpoints = _Endpoints(config, monitor, control)
    return [
        Route("/v1/models", endpoints.models),
        Route("/health", endpoints.alive),
        Route("/ping", endpoints.alive, methods=["GET", "POST"]),
        Route("/version", endpoints.version),
        Route("/load", endpoints.load),
        Route("/metrics", endpoints.metrics),
        Route("/tokenize", endpoints.tokenize, methods=["POST"]),
        Route("/detokenize", endpoints.detokenize, methods=["POST"]),
    ]


class _Endpoints:
    def __init__(self, config: SimulatorConfig, monitor: Monitor, control: Control) -> None:
        self._config = config
        self._monitor = monitor
        self._control = control

    async def alive(self, request: Request) -> Response:
        """Return 200; a dead engine returns 503 once, and then stops serving."""
        if not self._control.dead:
            return Response()
        burial = BackgroundTask(self._control.bury)
        return Response(status_code=503, headers={"connection": "close"}, background=burial)

    async def version(self, request: Request) -> Response:
        return _json(Version(VERSION))

    async def load(self, request: Request) -> Response:
        return _json(Load(self._monitor.in_flight))

    async def metrics(self, request: Request) -> Response:
        return Response(self._monitor.metrics(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        now = int(time.time())
        permission = ModelPermission(id=f"modelperm-{token_hex(8)}", created=now)
        model = Model(
            id=self._config.model,
            created=now,
            root=self._config.model,
            max_model_len=self._config.max_model_len,
            permission=[permission],
        )
        return _json(Models(data=[model]))

    async def tokenize(self, request: Request) -> Response:
        asked = parse(await read_body(request.receive), TokenizeRequest)
        check_model(asked.model, self._config)
        if asked.messages is not None:
            tools = asked.tools or ()
            ids = chat_ids(asked.messages, tools, open_answer=asked.add_generation_prompt)
        elif asked.prompt is not None:
            ids = encode(asked.prompt)
        else:
            raise bad_request("Either prompt or messages must be provided.", "prompt")
        strings = [piece_text(number) for number in ids] if asked.return_token_strs else None
        return _json(Tokenized(len(ids), self._config.max_model_len, ids, strings))

    async def detokenize(self, request: Request) -> Response:
        asked = parse(await read_body(request.receive), DetokenizeRequest)
        check_model(asked.model, self._config)
        check_ids(asked.tokens, "body.tokens")
        return _json(Detokenized(decode(asked.tokens)))


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
