"""The routes of Responses: to create them, and to read and cancel what is stored."""

import asyncio
import json
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gateway.simulator.api.responses.responses import Responses, in_responses
from gateway.simulator.api.responses.store import Kept
from gateway.simulator.breaking import Broken, break_off
from gateway.simulator.caller import read_body
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.generation import GenerationEndpoint
from gateway.simulator.input.refusals import Refused

_FAILED, _RUNNING = msgspec.Raw(b'"failed"'), msgspec.Raw(b'"in_progress"')


class _Asked(msgspec.Struct, frozen=True):
    background: bool | None = None
    stream: bool | None = None


def routes(
    config: SimulatorConfig, responses: Responses, endpoint: GenerationEndpoint
) -> list[Route]:
    """Return the routes for one simulator; `endpoint` generates what `responses` prepares."""
    stored = _Stored(responses)
    create = _Create(config, responses, endpoint)
    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/{name}", stored.retrieve),
        Route("/v1/responses/{name}/cancel", stored.cancel, methods=["POST"]),
    ]


class _Create:
    """Creates a response: for a caller that waits, or in the background."""

    def __init__(
        self, config: SimulatorConfig, responses: Responses, endpoint: GenerationEndpoint
    ) -> None:
        self._config = config
        self._responses = responses
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        asked = _asked(body)
        if asked.background and self._config.responses_store:
            answer = self._begin(scope, body, streamed=bool(asked.stream))
            await answer(scope, receive, send)
        else:
            await self._endpoint(scope, _first(body, receive), send)

    def _begin(self, scope: Scope, body: bytes, *, streamed: bool) -> Response:
        """Let the response run, whatever its caller does; raises Refused."""
        try:
            kept = self._responses.queue(body, self._config)
        except Refused as refused:
            raise in_responses(refused) from None
        kept.events = [] if streamed else None
        named = {**json.loads(body), "request_id": msgspec.json.decode(kept.fields["id"])}
        answer = Response(kept.body(), media_type="application/json")
        kept.task = asyncio.create_task(self._run(scope, msgspec.json.encode(named), kept))
        if streamed:
            return StreamingResponse(kept.follow(-1), media_type="text/event-stream")
        return answer

    async def _run(self, scope: Scope, body: bytes, kept: Kept) -> None:
        async def collect(message: Message) -> None:
            if message["type"] == "http.response.body":
                await kept.add(message["body"])

        kept.fields["status"] = _RUNNING
        alone = {**scope, "extensions": {}}
        try:
            await self._endpoint(alone, _first(body, _never), collect)
        except (Refused, Broken):
            kept.fields["status"] = _FAILED
        finally:
            await kept.end()


class _Stored:
    def __init__(self, responses: Responses) -> None:
        self._store = responses.store

    async def retrieve(self, request: Request) -> Response:
        kept = self._store.named(request.path_params["name"])
        if request.query_params.get("stream") != "true":
            return Response(kept.body(), media_type="application/json")
        if kept.events is None:
            return _BrokenOff()
        after = int(request.query_params.get("starting_after", "-1"))
        return StreamingResponse(kept.follow(after), media_type="text/event-stream")

    async def cancel(self, request: Request) -> Response:
        kept = await self._store.cancel(request.path_params["name"])
        return Response(kept.body(), media_type="application/json")


class _BrokenOff(Response):
    """The head of a stream, after which the engine has nothing to send."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [(b"content-type", b"text/event-stream; charset=utf-8")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        break_off(scope)


def _asked(body: bytes) -> _Asked:
    try:
        return msgspec.json.decode(body, type=_Asked)
    except msgspec.DecodeError:
        return _Asked()


def _first(body: bytes, receive: Receive) -> Receive:
    """Return a function that receives `body`, and then what `receive` does."""
    unread = [body]

    async def again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return again


async def _never() -> Message:
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}
