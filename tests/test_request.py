"""What of a request reaches the worker: the same bytes, less what is between two neighbours."""

from collections.abc import Sequence

import pytest
from answers import Headers, header_lines, names
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from raw_client import RawClient, head_of
from ways import Injecting

from gateway.config import Worker
from gateway.testing import GatewayFor, ScriptedWorker, answer_of
from gateway.upstream.request import CREDENTIALS, REPLACED, HeadTemplate
from gateway.upstream.response import HOP_BY_HOP

SOME_URL = "http://known-later"
ANY_WORKER = Worker(url=SOME_URL)
OK = answer_of(b"{}")
NOT_SENT_ON = HOP_BY_HOP | REPLACED | CREDENTIALS


class Sent:
    """A request as the worker read it."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        self.method, self.target, self.version = first.split(b" ")
        self.headers = [tuple(line.split(b": ", 1)) for line in lines]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


async def pass_through(
    gateway_for: GatewayFor,
    method: str = "POST",
    target: str = "/v1/chat/completions",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    plugins: Sequence[type] = (),
    worker: Worker = ANY_WORKER,
) -> Sent:
    """Send a request through a gateway to a worker with these settings but for its `url`."""
    async with ScriptedWorker(OK) as scripted:
        settings = replace(worker, url=scripted.url)
        live = await gateway_for(*plugins, workers=(settings,))
        async with RawClient(*live.server.address) as client:
            answer = await client.ask(method, target, list(headers), body)
        assert answer.status == 200
        (request,) = scripted.requests
        return Sent(request)


@given(header_lines, st.booleans(), st.none() | st.integers(0, 10**12))
def test_a_head_has_what_the_caller_sent(lines: Headers, forward: bool, length: int | None) -> None:
    lower = [(name.lower(), value) for name, value in lines]
    template = HeadTemplate("worker:1", {"X-Own": "1"}, forward_credentials=forward)

    raw = template.fill("POST", "/v1/\xe9?\xff", lower, "an-id", length)

    assert raw.startswith(b"POST /v1/\xe9?\xff HTTP/1.1\r\n")
    assert raw.endswith(b"\r\n\r\n")
    kept = HOP_BY_HOP | REPLACED | {b"x-own"} | (frozenset() if forward else CREDENTIALS)
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    assert raw[:-4].split(b"\r\n")[1:] == [
        *(b"x-request-id: an-id", b"host: worker:1", b"x-own: 1"),
        *(b"%b: %b" % line for line in lower if line[0] not in kept),
        framing,
    ]


@pytest.mark.parametrize("name", sorted(NOT_SENT_ON))
def test_a_header_between_neighbours_is_not_sent_on(name: bytes) -> None:
    template = HeadTemplate("worker", {}, forward_credentials=False)
    raw = template.fill("GET", "/", [(name, b"secret"), (b"x-a", b"b")], "an-id", 0)
    assert b"secret" not in raw
    assert b"x-a: b\r\n" in raw


@given(names.map(str.encode))
def test_what_connection_names_is_not_sent_on(name: bytes) -> None:
    template = HeadTemplate("worker", {}, forward_credentials=True)
    lines = [(b"connection", b"close"), (name.lower(), b"secret"), (b"connection", b"X, " + name)]
    assert b"secret" not in template.fill("GET", "/", lines, "an-id", 0)


@pytest.mark.parametrize(
    ("method", "length", "framing"),
    [
        ("GET", 0, b""),
        ("GET", 3, b"content-length: 3\r\n"),
        ("HEAD", 0, b""),
        ("DELETE", 0, b""),
        ("POST", 0, b"content-length: 0\r\n"),
        ("PUT", 0, b"content-length: 0\r\n"),
        ("PATCH", None, b"transfer-encoding: chunked\r\n"),
    ],
)
def test_the_framing_fits_the_body(method: str, length: int | None, framing: bytes) -> None:
    raw = HeadTemplate("w", {}, forward_credentials=False).fill(method, "/", [], "i", length)
    assert raw == b"%b / HTTP/1.1\r\nx-request-id: i\r\nhost: w\r\n%b\r\n" % (
        method.encode(),
        framing,
    )


MANY = [
    (b"accept", b"text/event-stream"),
    (b"Accept-Encoding", b"gzip, br"),
    (b"X-Stainless-Lang", b"python"),
    (b"cookie", b"a=1"),
    (b"cookie", b"b=2"),
    (b"x-latin", b"caf\xe9"),
    (b"x-empty", b""),
    (b"user-agent", b"OpenAI/Python 1.60"),
]


async def test_headers_reach_the_worker_as_they_were(gateway_for: GatewayFor) -> None:
    sent = await pass_through(gateway_for, headers=MANY)
    own = (b"host", b"x-request-id", b"content-length")
    assert [line for line in sent.headers if line[0] not in own] == [
        (name.lower(), value) for name, value in MANY
    ]
    assert [len(sent.values(name)) for name in own] == [1, 1, 1]


async def test_a_worker_whose_answers_are_read_is_not_asked_to_compress_them(
    gateway_for: GatewayFor,
) -> None:
    sent = await pass_through(gateway_for, headers=MANY, body=b"{}", plugins=[Injecting])
    assert sent.values(b"accept-encoding") == []
    assert sent.values(b"accept") == [b"text/event-stream"]


async def test_the_worker_sees_its_own_host_and_a_request_id(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(workers=(worker.url,))
        async with RawClient(*live.server.address) as client:
            answer = await client.ask("GET", "/v1/models")
        sent = Sent(worker.requests[0])
        assert sent.values(b"host") == [worker.url.removeprefix("http://").encode()]
        assert sent.values(b"x-request-id") == answer.values(b"x-request-id")


KEYS = [(b"Authorization", b"Bearer mine"), (b"X-API-Key", b"mine"), (b"api-key", b"mine")]


async def test_the_callers_keys_stay_here(gateway_for: GatewayFor) -> None:
    sent = await pass_through(gateway_for, headers=KEYS)
    assert b"mine" not in b"".join(value for _, value in sent.headers)


async def test_the_callers_keys_go_on_where_the_worker_is_to_have_them(
    gateway_for: GatewayFor,
) -> None:
    sent = await pass_through(
        gateway_for, headers=KEYS, worker=Worker(url=SOME_URL, forward_authorization=True)
    )
    assert [line for line in sent.headers if b"mine" in line[1]] == [
        (name.lower(), value) for name, value in KEYS
    ]


@pytest.mark.parametrize("forward", [False, True])
async def test_the_workers_own_headers_replace_the_callers(
    gateway_for: GatewayFor, forward: bool
) -> None:
    own = {"Authorization": "Bearer its-own", "User-Agent": "gateway", "X-New": "caf\xe9"}
    worker = Worker(url=SOME_URL, headers=own, forward_authorization=forward)
    sent = await pass_through(gateway_for, headers=[*KEYS, *MANY], worker=worker)
    assert sent.values(b"authorization") == [b"Bearer its-own"]
    assert sent.values(b"user-agent") == [b"gateway"]
    assert sent.values(b"x-new") == [b"caf\xe9"]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models?a=1&a=2&b",
        "/v1/models?",
        "/v1/models?q=%20+%2B%ff&%",
        "/v1/models/org%2Fname",
        "/v1/models/caf%C3%A9%20x",
        "/v1/models//a///b/",
        "/v1/models/a;b=c,d@e:f$g'h(i)*!~",
        "/v1/models?next=/v1/../pause",
        "/v1/",
        "/version?a=%2e%2e",
    ],
)
async def test_path_and_query_reach_the_worker_as_they_were(
    gateway_for: GatewayFor, target: str
) -> None:
    sent = await pass_through(gateway_for, "GET", target)
    assert sent.target.decode() == target.removesuffix("?")


@pytest.mark.parametrize(
    ("api_path", "target", "wanted"),
    [
        ("/v1", "/v1/models", b"/v1/models"),
        ("/openai/v2/", "/v1/models?a", b"/openai/v2/models?a"),
        ("/openai/v2", "/v1/v1/x", b"/openai/v2/v1/x"),
        ("/openai/v2", "/version", b"/version"),
    ],
)
async def test_the_api_may_lie_elsewhere_on_a_worker(
    gateway_for: GatewayFor, api_path: str, target: str, wanted: bytes
) -> None:
    worker = Worker(url=SOME_URL, api_path=api_path)
    sent = await pass_through(gateway_for, "GET", target, worker=worker)
    assert sent.target == wanted


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MERGE"]
)
async def test_any_method_reaches_the_worker(gateway_for: GatewayFor, method: str) -> None:
    sent = await pass_through(gateway_for, method, "/v1/anything", body=b"a body")
    assert (sent.method, sent.body) == (method.encode(), b"a body")


MULTIPART = (
    b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="\xc3\xa4.wav"\r\n'
    b"content-type: audio/wav\r\n\r\n" + bytes(range(256)) * 40 + b"\r\n--x--\r\n"
)


@pytest.mark.parametrize("plugins", [[], [Injecting]])
async def test_an_upload_of_a_file_reaches_the_worker_byte_for_byte(
    gateway_for: GatewayFor, plugins: list[type]
) -> None:
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    sent = await pass_through(
        gateway_for, "POST", "/v1/audio/transcriptions", headers, MULTIPART, plugins
    )
    assert sent.body == MULTIPART
    assert sent.values(b"content-type") == [b"multipart/form-data; boundary=x"]
    assert sent.values(b"content-length") == [b"%d" % len(MULTIPART)]


async def test_an_expectation_is_met_here(gateway_for: GatewayFor) -> None:
    """A caller that waits for leave to send its body gets it from the gateway."""
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(workers=(worker.url,))
        async with RawClient(*live.server.address) as client:
            lines = [(b"content-length", b"2"), (b"Expect", b"100-continue")]
            await client.send(head_of("POST", "/v1/completions", lines))
            assert (await client.head()).status == 100
            await client.send(b"{}")
            assert (await client.answer()).status == 200
        sent = Sent(worker.requests[0])
        assert sent.body == b"{}"
        assert sent.values(b"expect") == []
