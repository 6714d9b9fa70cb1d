"""Routes of plugins under /v1/: they come before the workers, behind every server."""

import httpx
import pytest
from starlette.routing import BaseRoute
from support.callers.seen_request import seen

from gateway import ControlRequest, Host, hookimpl
from gateway.config import Config, Worker
from gateway.testing import NO_PROBES, ScriptedWorker, answer_of, entry, live


class Notes:
    """Keeps /v1/notes, and what is below it."""

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [
            gateway.control("/v1/notes", scope=None, POST=self._body),
            gateway.control("/v1/notes/{name}", scope=None, GET=self._name),
        ]

    async def _body(self, request: ControlRequest) -> str:
        return (await request.body()).decode()

    async def _name(self, request: ControlRequest) -> str:
        return request.params["name"]


def before(worker: ScriptedWorker) -> Config:
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), plugins=(entry(Notes),))


async def ask(client: httpx.AsyncClient) -> list[tuple[int, object]]:
    answers = [
        await client.post("/v1/notes", content=b'{"a" :1}'),
        await client.get("/v1/notes/one"),
        await client.put("/v1/notes"),
        await client.get("/v1/notebook"),
        await client.get("/v1/notes%2Fone"),
        await client.post("/v1/models"),
    ]
    return [(one.status_code, one.json()) for one in answers]


@pytest.mark.parametrize("server", ["own", "any"])
async def test_route_in_v1_is_asked_before_the_workers(server: str) -> None:
    async with ScriptedWorker(answer_of(b'"worker"')) as worker, live(before(worker)) as gateway:
        if server == "own":
            found = await ask(gateway.client)
        else:
            transport = httpx.ASGITransport(app=gateway.server._gateway)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                found = await ask(client)
    assert found[:2] == [(200, '{"a" :1}'), (200, "one")]
    assert found[2][0] == 405
    assert found[3:] == [(200, "worker")] * 3
    targets = [seen(request).target for request in worker.requests]
    assert targets == ["/v1/notebook", "/v1/notes%2Fone", "/v1/models"]


async def test_calls_are_compared_with_as_few_paths_as_possible() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        assert gateway.gateway.edge._claimed == ("/v1/notes",)
