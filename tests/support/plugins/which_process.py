"""A bare plugin for a gateway of several processes: `GET /who` tells which of them answers."""

import os

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from gateway import Gateway, hookimpl


@hookimpl
def routes(gateway: Gateway) -> list[BaseRoute]:
    async def who(_: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{gateway.peers.index} {os.getpid()}")

    return [gateway.guarded(Route("/who", who), scope=None)]
