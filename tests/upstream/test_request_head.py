"""What a worker is asked: the lines of the head, its framing, and what never gets there."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.callers.raw_client import RawClient
from support.callers.response_paths import PLUGINS
from support.callers.seen_request import Headers, Seen, seen
from support.gateways.event_loop import Stage
from support.records.worker_answers import header_lines, names, values

from gateway.config import Config, Worker
from gateway.testing import (
    NO_PROBES,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
)
from gateway.upstream.request import CREDENTIALS, REPLACED, HeadTemplate
from gateway.upstream.response import HOP_BY_HOP

CHAT = "/v1/chat/completions"
OK = answer_of(b"{}")
NEVER_SENT = HOP_BY_HOP | REPLACED | CREDENTIALS


def client_of(gateway: Live) -> RawClient:
    return RawClient(*gateway.server.address)


async def arrived(
    method: str, target: str, headers: Headers, body: bytes = b"", *, worker: Worker | None = None
) -> Seen:
    """What comes of a request at a worker with the settings of `worker`, whose URL is replaced."""
    async with ScriptedWorker(OK) as running:
        config = Config(probes=NO_PROBES, workers=(worker_at(running.url, worker),))
        async with live(config) as gateway, client_of(gateway) as client:
            assert (await client.ask(method, target, headers, body)).status == 200
    [request] = running.requests
    return seen(request)


def worker_at(url: str, like: Worker | None) -> Worker:
    if like is None:
        return Worker(url=url)
    return Worker(
        url=url,
        api_path=like.api_path,
        headers=like.headers,
        forward_authorization=like.forward_authorization,
    )


def filled(headers: Headers, template: HeadTemplate | None = None, **more: bool) -> Seen:
    template = template or HeadTemplate("worker.test:1", {}, forward_credentials=False)
    return seen(template.fill("GET", "/v1/models", headers, "the-id", 0, **more))


def test_head_template_writes_the_whole_request_head() -> None:
    template = HeadTemplate("h:1", {"X-Own": "1", "Accept": "b"}, forward_credentials=False)
    headers = [(b"host", b"gateway.test"), (b"accept", b"a"), (b"x-a", b"1"), (b"x-id", b"")]
    head = template.fill("POST", "/v1/x?y=%20", headers, "the-id", 7)
    assert head == (
        b"POST /v1/x?y=%20 HTTP/1.1\r\n"
        b"x-request-id: the-id\r\n"
        b"host: h:1\r\n"
        b"x-own: 1\r\n"
        b"accept: b\r\n"
        b"x-a: 1\r\n"
        b"x-id: \r\n"
        b"content-length: 7\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    ("method", "length", "lines"),
    [
        ("GET", 0, []),
        ("HEAD", 0, []),
        ("DELETE", 0, []),
        ("POST", 0, [b"content-length: 0"]),
        ("PUT", 0, [b"content-length: 0"]),
        ("PATCH", 0, [b"content-length: 0"]),
        ("GET", 3, [b"content-length: 3"]),
        ("DELETE", 3, [b"content-length: 3"]),
        ("POST", None, [b"transfer-encoding: chunked"]),
        ("GET", None, [b"transfer-encoding: chunked"]),
    ],
)
def test_head_template_frames_the_body_by_method_and_length(
    method: str, length: int | None, lines: list[bytes]
) -> None:
    template = HeadTemplate("h:1", {}, forward_credentials=False)
    sent = [(b"content-length", b"99"), (b"transfer-encoding", b"gzip, chunked")]
    head = template.fill(method, "/v1/x", sent, "the-id", length)
    assert head.removesuffix(b"\r\n\r\n").split(b"\r\n")[3:] == lines


any_name = names.map(lambda name: name.lower().encode()) | st.sampled_from(sorted(NEVER_SENT))
any_lines = st.lists(st.tuples(any_name, values), max_size=10)


@given(any_lines, st.data())
def test_head_template_forwards_all_but_the_documented_headers(
    lines: Headers, data: st.DataObject
) -> None:
    named = data.draw(st.lists(any_name | st.sampled_from([n for n, _ in lines] or [b"x"])))
    joined = data.draw(st.sampled_from([b",", b", ", b" ,\t"])).join(named).title()
    where = data.draw(st.integers(0, len(lines)))
    sent = [*lines[:where], (b"connection", joined), *lines[where:]]
    kept = [line for line in lines if line[0] not in NEVER_SENT and line[0] not in named]
    assert filled(sent).headers == [
        (b"x-request-id", b"the-id"),
        (b"host", b"worker.test:1"),
        *kept,
    ]


@pytest.mark.parametrize("name", sorted(CREDENTIALS))
@pytest.mark.parametrize("forward", [True, False])
async def test_request_head_has_caller_credentials_only_if_configured(
    name: bytes, *, forward: bool
) -> None:
    """Unless the worker is one that is to have them."""
    worker = Worker(url="http://any", forward_authorization=forward)
    asked = await arrived("GET", "/v1/models", [(name.title(), b"secret")], worker=worker)
    assert asked.values(name) == ([b"secret"] if forward else [])
    assert any(value == b"secret" for _, value in asked.headers) == forward


@pytest.mark.parametrize("forward", [True, False])
async def test_request_head_replaces_caller_headers_by_worker_headers(*, forward: bool) -> None:
    own = {"Authorization": "Bearer own", "X-Team": "caf\xe9"}
    worker = Worker(url="http://any", headers=own, forward_authorization=forward)
    given = [(b"authorization", b"Bearer caller"), (b"x-team", b"a"), (b"X-TEAM", b"b")]
    asked = await arrived("GET", "/v1/models", given, worker=worker)
    assert asked.values(b"authorization") == [b"Bearer own"]
    assert asked.values(b"x-team") == [b"caf\xe9"]


async def test_request_head_names_the_worker_as_host() -> None:
    async with (
        ScriptedWorker(OK) as worker,
        live(Config(probes=NO_PROBES, workers=(Worker(url=worker.url),))) as own,
    ):
        async with client_of(own) as client:
            await client.ask("GET", "/v1/models")
    assert seen(worker.requests[0]).values(b"host") == [worker.url.removeprefix("http://").encode()]


async def test_request_head_drops_hop_by_hop_headers() -> None:
    given = [
        (b"connection", b"X-Private, keep-alive"),
        (b"connection", b"x-too"),
        (b"x-private", b"1"),
        (b"x-too", b"1"),
        (b"x-public", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"proxy-authorization", b"Basic x"),
        (b"expect", b"100-continue"),
    ]
    asked = await arrived("POST", CHAT, given, b"{}")
    assert [name for name, _ in asked.headers] == [
        b"x-request-id",
        b"host",
        b"x-public",
        b"content-length",
    ]


async def test_response_head_drops_hop_by_hop_headers() -> None:
    lines = (
        b"connection: X-Private, keep-alive\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n"
        b"proxy-authenticate: Basic\r\nupgrade: h2c\r\ntrailer: x-late\r\nx-public: 1\r\n"
    )
    async with ScriptedWorker(OK.replace(b"\r\n", b"\r\n" + lines, 1)) as worker:
        async with live(Config(probes=NO_PROBES, workers=(Worker(url=worker.url),))) as gateway:
            async with client_of(gateway) as client:
                answer = await client.ask("GET", "/v1/models")
    assert [name for name, _ in answer.headers] == [
        b"x-public",
        b"content-type",
        b"content-length",
        b"x-request-id",
        b"x-gateway-worker",
        b"server-timing",
    ]


async def test_repeated_header_lines_stay_separate_and_in_order_both_ways() -> None:
    lines = [
        (b"x-a", b"1"),
        (b"cookie", b"a=1"),
        (b"x-a", b"2, 3"),
        (b"cookie", b"b"),
        (b"x-a", b""),
    ]
    answer = b"set-cookie: a=1\r\nx-b: 1\r\nset-cookie: b=2, c\r\nx-b: \r\n"
    async with ScriptedWorker(OK.replace(b"\r\n", b"\r\n" + answer, 1)) as worker:
        async with live(Config(probes=NO_PROBES, workers=(Worker(url=worker.url),))) as gateway:
            async with client_of(gateway) as client:
                got = await client.ask("GET", "/v1/models", lines)
    assert seen(worker.requests[0]).headers[2:] == lines
    assert got.headers[:4] == [
        (b"set-cookie", b"a=1"),
        (b"x-b", b"1"),
        (b"set-cookie", b"b=2, c"),
        (b"x-b", b""),
    ]


@pytest.mark.parametrize(
    ("api_path", "target", "asked"),
    [
        ("", "/v1/models", "/v1/models"),
        ("/v1", "/v1/models?a=b", "/v1/models?a=b"),
        ("/openai/v2", "/v1/models?/v1/", "/openai/v2/models?/v1/"),
        ("/api/", "/v1/v1/models", "/api/v1/models"),
        ("/api", "/v1/", "/api/"),
        ("/api", "/tokenize", "/tokenize"),
    ],
)
async def test_request_head_maps_v1_to_the_worker_s_api_path(
    api_path: str, target: str, asked: str
) -> None:
    worker = Worker(url="http://any", api_path=api_path)
    assert (await arrived("GET", target, [], worker=worker)).target == asked


@pytest.mark.parametrize("way", sorted(PLUGINS))
async def test_request_head_accepts_identity_alone_if_a_plugin_reads_responses(way: str) -> None:
    plugins = tuple(entry(plugin) for plugin in PLUGINS[way])
    given = [(b"accept-encoding", b"gzip, br"), (b"content-type", b"application/json")]
    async with ScriptedWorker(OK) as worker:
        async with live(
            Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), plugins=plugins)
        ) as gateway:
            async with client_of(gateway) as client:
                await client.ask("POST", CHAT, given, b'{"messages":[]}')
    accepted = seen(worker.requests[0]).values(b"accept-encoding")
    assert accepted == [b"gzip, br" if way == "untouched" else b"identity"]


async def test_head_request_gets_the_content_length_without_a_body() -> None:
    """Its content-length is that of the body that is not there."""

    async def script(connection: ScriptedConnection) -> None:
        asked = seen(await connection.read_request())
        await connection.write(OK[:-2] if asked.method == "HEAD" else OK)

    async with ScriptedWorker(script) as worker:
        async with live(Config(probes=NO_PROBES, workers=(Worker(url=worker.url),))) as gateway:
            async with client_of(gateway) as client:
                head = await client.ask("HEAD", "/v1/models")
                then = await client.ask("GET", "/v1/models")
    assert (head.status, head.values(b"content-length"), head.body) == (200, [b"2"], b"")
    assert then.body == b"{}"
    first = seen(worker.requests[0])
    assert (first.method, first.values(b"content-length")) == ("HEAD", [])


class Way(Stage):
    """A gateway before a worker, for one header list after another."""

    def __enter__(self) -> "Way":
        super().__enter__()
        self._worker = self.enter(ScriptedWorker(OK))
        self._gateway = self.enter(
            live(Config(probes=NO_PROBES, workers=(Worker(url=self._worker.url),)))
        )
        return self

    def carry(self, headers: Headers) -> Headers:
        """What arrives at the worker of these."""
        return self.run(self._carry(headers))

    async def _carry(self, headers: Headers) -> Headers:
        self._worker.requests.clear()
        async with client_of(self._gateway) as client:
            assert (await client.ask("GET", "/v1/models", headers)).status == 200
        return seen(self._worker.requests[0]).headers


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    with Way() as way:
        yield way


@settings(max_examples=60)
@given(header_lines)
def test_valid_header_lines_reach_the_worker_unchanged(way: Way, lines: Headers) -> None:
    kept = [(name.lower(), value) for name, value in lines if name.lower() not in NEVER_SENT]
    assert way.carry(lines)[2:] == kept
