"""Paths that a plugin leads to calls: past the router under the gateway's own server."""

import httpx
import pytest
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send
from support.callers.raw_client import RawClient
from support.callers.seen_request import seen

from gateway import Call, Forbidden, Host, hookimpl
from gateway.config import Config, Worker
from gateway.testing import NO_PROBES, ScriptedWorker, answer_of, entry, live

CHAT = "/v1/chat/completions"


class Below:
    """Leads /below/NAME to a call of the session NAME."""

    sessions: list[str | None] = []  # noqa: RUF012  a test clears it

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [gateway.carried_below("/below/", self._find)]

    def _find(self, path: str) -> tuple[str, str | None] | None:
        name = path.removeprefix("/below/")
        if name == "refused":
            raise Forbidden("not this one")
        if name == "broken":
            raise ZeroDivisionError
        return None if name == "unknown" else (CHAT, name)

    @hookimpl
    async def call_finished(self, call: Call) -> None:
        self.sessions.append(call.session_id)


def before(worker: ScriptedWorker) -> Config:
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), plugins=(entry(Below),))


async def no_router(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("a call goes past the router")


@pytest.mark.parametrize("path", ["/below/a", CHAT])
async def test_call_goes_past_the_router_of_the_own_server(path: str) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        gateway.server._gateway._router = no_router  # type: ignore[assignment]
        answer = await gateway.client.post(path, json={})
        assert answer.status_code == 200
    assert seen(worker.requests[0]).target == CHAT


async def test_session_of_the_path_is_the_calls_behind_every_server() -> None:
    Below.sessions.clear()
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        await gateway.client.post("/below/a", json={})
        transport = httpx.ASGITransport(app=gateway.server._gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post("/below/b", json={})
    assert Below.sessions == ["a", "b"]


async def test_errors_of_find_are_responses_and_the_connection_goes_on() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with RawClient(*gateway.server.address) as client:
            names = ("refused", "broken", "unknown", "a")
            statuses = [(await client.ask("GET", f"/below/{name}", [])).status for name in names]
    assert statuses == [403, 500, 404, 200]
