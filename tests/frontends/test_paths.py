"""Which paths reach a worker, and that nothing else does."""

import asyncio
import posixpath
from collections.abc import Iterator
from urllib.parse import unquote

import httpx
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Message, Scope
from support.callers.raw_client import RawClient
from support.callers.seen_request import seen
from support.gateways.event_loop import Stage

from gateway import Gateway
from gateway.config import Config, Worker
from gateway.testing import NO_PROBES, Live, ScriptedWorker, answer_of, live


def before(worker: ScriptedWorker, **settings: object) -> Config:
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), **settings)  # type: ignore[arg-type]


def client_of(gateway: Live) -> RawClient:
    return RawClient(*gateway.server.address)


def code_of(body: bytes) -> str:
    """The code in OpenAI's envelope, which must be whole."""
    [(key, error)] = msgspec.json.decode(body).items()
    assert key == "error"
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


@pytest.mark.parametrize("target", ["/v1/models", "/v1/", "/v1/no/such/thing", "/v1/a%20b/%C3%A9"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND", "QUERY"])
async def test_any_method_and_path_below_v1_is_forwarded(method: str, target: str) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            assert (await client.ask(method, target)).body == b"{}"
    asked = seen(worker.requests[0])
    assert (asked.method, asked.target) == (method, target)


async def test_unknown_methods_are_forwarded() -> None:
    """llhttp refuses them at the gateway's own server; another server may let them through."""
    async with ScriptedWorker(answer_of(b"{}")) as worker, Gateway(before(worker)) as gateway:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway)) as client:
            answer = await client.request("FROB", "http://gateway.test/v1/models")
    assert answer.status_code == 200
    assert seen(worker.requests[0]).method == "FROB"


@pytest.mark.parametrize(
    "target",
    [
        r"/v1/a%2Fb;v=1//c:d@e/%zz?q=a%20b&c=+%2B&&=\|^{}`~[]'!*()",
        "/v1/models?/../pause",
        "/v1/models?a=?b?",
        "/v1/..a/b../...",
        "/v1/%2525",
        "/tokenize?x=%00",
    ],
)
async def test_targets_are_forwarded_byte_for_byte(target: str) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            assert (await client.ask("GET", target)).status == 200
    assert [seen(request).target for request in worker.requests] == [target]


async def test_multipart_bodies_are_forwarded_byte_for_byte() -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = part + bytes(range(256)) * 40 + b"\r\n--x--\r\n"
    kind = (b"content-type", b"multipart/form-data; boundary=x")
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            await client.ask("POST", "/v1/audio/transcriptions", [kind], body)
    asked = seen(worker.requests[0])
    assert asked.body == body
    assert asked.values(b"content-type") == [b"multipart/form-data; boundary=x"]


@pytest.mark.parametrize(
    "target",
    [
        "/pause",
        "/collective_rpc",
        "/v1/../pause",
        "/v1/./../pause",
        "/v1/..",
        "/v1/%2e%2e/pause",
        "/v1/%2E./pause",
        "//pause",
        "//v1/../pause",
        "/v1//../pause",
        "/v1/..%2fpause",
        "/v1/x/..%2F..%2fpause",
        "/v1/%252e%252e/x",
        "/v1/%25%32%65%25%32%65/x",
        r"/v1/..\pause",
        r"/v1\..\pause",
        "/v1/..%5cpause",
        "/v1/%5c..%5c..%5cpause",
        "/%76%31/../pause",
        "/v1%2f..%2fpause",
        "/V1/models",
        "/tokenize/../pause",
        "http://worker.test/pause",
        "http://worker.test/v1/../pause",
    ],
)
async def test_worker_control_paths_are_unreachable(target: str) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            answer = await client.ask("POST", target)
    assert (answer.status, code_of(answer.body)) == (404, "not_found")
    assert worker.connections == []


async def test_extra_paths_are_forwarded_unchanged() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        async with live(before(worker, extra_paths=("/load", "/a%20b"))) as gateway:
            answers = [await gateway.client.get(path) for path in ("/load", "/load?x=1")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [seen(request).target for request in worker.requests] == ["/load", "/load?x=1"]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "*",
        "/v1",
        "/v1?x=1",
        "/nope",
        "/health/",
        "/tokenize/",
        "/Tokenize",
        "/%74okenize",
        "/tokenize%2f",
        "//tokenize",
        "/tokenize/x",
        "/tokenize%00",
    ],
)
async def test_unknown_routes_return_404_in_the_error_envelope(target: str) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            answer = await client.ask("GET", target)
    assert (answer.status, code_of(answer.body)) == (404, "not_found")
    assert answer.value(b"content-type") == b"application/json"
    assert worker.connections == []


async def test_wrong_method_returns_405_in_the_error_envelope() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        assert (await gateway.client.get("/health")).json() == {"status": "ok"}
        answer = await gateway.client.post("/health")
    assert (answer.status_code, code_of(answer.content)) == (405, "invalid_request")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


class Door:
    """A gateway that is asked by hand, before a worker whose API lies at /deep/api."""

    def __init__(self, gateway: Gateway, worker: ScriptedWorker, stage: Stage) -> None:
        self._gateway = gateway
        self._worker = worker
        self._stage = stage

    def ask(self, path: str) -> tuple[int, list[str]]:
        """The status of the answer, and the targets that the worker was asked for."""
        return self._stage.run(self._ask(path))

    async def _ask(self, path: str) -> tuple[int, list[str]]:
        self._worker.requests.clear()
        statuses: list[int] = []
        messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
        forever: asyncio.Future[Message] = asyncio.Future()

        async def receive() -> Message:
            return messages.pop() if messages else await forever

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self._gateway(_scope(path), receive, send)
        [status] = statuses
        return status, [seen(request).target for request in self._worker.requests]


def _scope(path: str) -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": b"",
        "root_path": "",
        "headers": [],
    }


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with Stage() as stage:
        worker = stage.enter(ScriptedWorker(answer_of(b"{}")))
        config = Config(probes=NO_PROBES, workers=(Worker(url=f"{worker.url}/deep/api"),))
        yield Door(stage.enter(Gateway(config)), worker, stage)


parts = st.sampled_from(["v1", "V1", "pause", "tokenize", "", "%", ";", "a", "..", ".", "\x7f"])
dots = st.sampled_from(["..", ".%2e", "%2E.", "%2e%2E", "%252e.", "%252e%25%32%65", "..;", ".%00."])
slashes = st.sampled_from(["/", "/", "/", "//", "%2f", "%2F", "%252f", "\\", "%5c", "%255C"])
steps = st.tuples(slashes, parts | dots | st.from_regex(r"(%[0-9a-f]{2}){1,3}", fullmatch=True))
tails = st.lists(steps, max_size=7).map(lambda steps: "".join(map("".join, steps)))
paths = st.builds(str.__add__, st.sampled_from(["", "/v1", "/v1", "/v1/x", "/tokenize"]), tails)


@given(paths.filter(lambda path: path.startswith("/")))
@example("/v1/a/../../pause")
@example("/v1/%252e%252e/pause")
def test_no_path_escapes_the_api_path_of_a_worker(door: Door, path: str) -> None:
    """However a worker reads it: as it is, decoded once, or decoded by a proxy before it too."""
    status, targets = door.ask(path)
    if status == 404:
        assert targets == []
        return
    assert status == 200
    if path in Config().extra_paths:
        assert targets == [path]
        return
    assert targets == ["/deep/api" + path.removeprefix("/v1")]
    for read in (targets[0], unquote(targets[0]), unquote(unquote(targets[0]))):
        leads = posixpath.normpath(read.replace("\\", "/"))
        assert f"{leads}/".startswith("/deep/api/")
