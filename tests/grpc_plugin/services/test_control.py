"""`ListModels` and `Abort`: what a caller may see, and the calls that it may end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway_plugins.grpc.services.control.abort import NAME, Abort
from gateway_plugins.grpc.services.control.models import ListModels
from gateway_plugins.grpc.services.json.call import JsonCall
from gateway_plugins.grpc.status import Code, Status
from support.grpc.in_process import MESSAGES, KeptMessages, carried, message

from gateway import Body, Call, CallerGone, Gateway, Peers, Principal, hookimpl
from gateway.config import Config, Worker
from gateway.simulator import Simulator
from gateway.testing import NO_PROBES, RecordingCaller, ScriptedConnection, ScriptedWorker, entry


class Keys:
    """Knows keys, which are names; `limited` may use one model."""

    @hookimpl
    def authenticate(self, call: Call) -> Principal | None:
        name = (call.header("authorization") or "").removeprefix("Bearer ")
        models = frozenset({"other"}) if name == "limited" else None
        return Principal(name, models=models) if name else None


Running = asyncio.Task[tuple[Status, list[Any]]]


def key(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {name}"),) if name else ()


@asynccontextmanager
async def gateway_of(
    url: str, *plugins: str | type, peers: Peers | None = None
) -> AsyncIterator[Gateway]:
    found = tuple(entry(plugin) for plugin in plugins)
    config = Config(probes=NO_PROBES, workers=(Worker(url=url),), plugins=found)
    async with Gateway(config, peers=peers) as gateway:
        yield gateway


async def test_models_come_with_their_cards(simulator: Simulator) -> None:
    async with gateway_of(simulator.url) as gateway:
        request = message("ListModelsRequest")
        status, [found] = await carried(
            gateway, ListModels(MESSAGES), request, "ListModelsResponse"
        )
    assert status.code is Code.OK
    [model] = found.models
    assert model.id == "sim"
    assert model.json.startswith(b'{"id":"sim"')


async def test_models_are_those_that_the_key_may_use(simulator: Simulator) -> None:
    async with gateway_of(simulator.url, Keys, "openai_models") as gateway:
        found = {}
        for name in ("me", "limited", ""):
            request = message("ListModelsRequest")
            found[name] = await carried(
                gateway, ListModels(MESSAGES), request, "ListModelsResponse", *key(name)
            )
    assert [model.id for model in found["me"][1][0].models] == ["sim"]
    assert list(found["limited"][1][0].models) == []
    assert found[""][0].code is Code.UNAUTHENTICATED


class Silence:
    """Reads requests and says nothing until the other end leaves; `asked` counts them."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)

    async def script(self, connection: ScriptedConnection) -> None:
        await connection.read_request()
        self.asked.release()
        await connection.wait_closed()


async def aborted(abort: Abort, request_id: str, name: str = "") -> tuple[Status, list[bool]]:
    context = KeptMessages(NAME, message("AbortRequest", request_id=request_id), *key(name))
    status, sent = await abort.serve(context)
    assert sent == len(context.sent)
    kind = MESSAGES.type("gateway.v1.AbortResponse")
    return status, [kind.FromString(data).aborted for data in context.sent]


def running(
    gateway: Gateway, request_id: str, name: str = ""
) -> "asyncio.Task[tuple[Status, list[Any]]]":
    request = message("JsonRequest", path="/v1/chat/completions", body=b"{}")
    request.meta.request_id = request_id
    method = JsonCall(MESSAGES, gateway)
    return asyncio.create_task(carried(gateway, method, request, "JsonChunk", *key(name)))


async def test_a_call_ends_when_its_key_aborts_it() -> None:
    silence = Silence()
    async with ScriptedWorker(silence.script) as worker, gateway_of(worker.url, Keys) as gateway:
        abort = Abort(gateway, MESSAGES)
        mine, other = running(gateway, "one", "me"), running(gateway, "two", "me")
        for _ in (mine, other):
            await silence.asked.acquire()
        assert (await aborted(abort, "one"))[0].code is Code.UNAUTHENTICATED
        assert (await aborted(abort, "one", "you"))[1] == [False]
        assert (await aborted(abort, "none", "me"))[1] == [False]
        refused, _ = await aborted(abort, "", "me")
        assert (refused.code, refused.field) == (Code.INVALID_ARGUMENT, "request_id")
        assert not mine.done()
        status, found = await aborted(abort, "one", "me")
        assert (status.code, found) == (Code.OK, [True])
        ended, chunks = await mine
        assert (ended.code, ended.reason, chunks) == (Code.CANCELLED, "aborted", [])
        assert not other.done()
        assert (await aborted(abort, "two", "me"))[1] == [True]
        await other
        assert not gateway.calls_in_flight


async def test_a_call_of_another_process_is_aborted_too(tmp_path: Path) -> None:
    silence = Silence()
    first, second = (Peers(index, 2, tmp_path) for index in (0, 1))
    async with ScriptedWorker(silence.script) as worker:
        async with gateway_of(worker.url, peers=first) as here:
            async with gateway_of(worker.url, peers=second) as there:
                abort, _ = Abort(here, MESSAGES), Abort(there, MESSAGES)
                call = running(there, "one")
                await silence.asked.acquire()
                assert (await aborted(abort, "two"))[1] == [False]
                assert (await aborted(abort, "one"))[1] == [True]
                assert (await call)[0].code is Code.CANCELLED


async def test_calls_of_the_gateways_own_jobs_are_not_aborted() -> None:
    silence = Silence()
    async with ScriptedWorker(silence.script) as worker, gateway_of(worker.url) as gateway:
        headers = [(b"x-request-id", b"one")]
        job = Call(
            RecordingCaller(),
            method="POST",
            path="/v1/chat/completions",
            headers=headers,
            body=Body(b"{}"),
            internal=True,
        )
        running = asyncio.create_task(gateway.dispatch(job))
        await silence.asked.acquire()
        assert (await aborted(Abort(gateway, MESSAGES), "one"))[1] == [False]
        job.cancel(CallerGone("the test is over"))
        await running
