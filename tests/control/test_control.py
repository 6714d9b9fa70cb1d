"""Routes of the gateway's own: how paths are read, bodies checked, and failures told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import StreamingResponse
from support.callers.raw_client import CutShort, RawClient

from gateway import (
    BadRequest,
    ControlRequest,
    Gateway,
    Principal,
    StorageUnavailable,
    hookimpl,
    split_session_path,
)
from gateway.config import Config, ServerLimits, Timeouts
from gateway.control.routes import ControlRoute
from gateway.testing import GatewayFor, Live


class Query(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=0)] = 7
    since: Annotated[float, msgspec.Meta(le=9)] | None = None


class Note(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    tags: list[str] = []
    more: Any = None


class Notes:
    """A plugin with routes of each kind."""

    def __init__(self) -> None:
        self.principals: list[Principal | None] = []

    @hookimpl
    def routes(self, gateway: Gateway) -> list[ControlRoute]:
        return [
            gateway.control("/notes/{id}/tags", scope="notes", GET=self.tags),
            gateway.control("/notes/{id}", scope="notes", GET=self.show, POST=self.write),
            gateway.control("/broken/{how}", scope="notes", GET=self.broken),
        ]

    async def tags(self, request: ControlRequest) -> dict[str, Any]:
        return {"tags of": request.params["id"], "limit": request.query(Query).limit}

    async def show(self, request: ControlRequest) -> dict[str, Any]:
        self.principals.append(request.principal)
        return {"note": request.params["id"]}

    async def write(self, request: ControlRequest) -> Note:
        return await request.json(Note)

    async def broken(self, request: ControlRequest) -> StreamingResponse:
        match request.params["how"]:
            case "refused":
                raise BadRequest("no")
            case "storage":
                raise StorageUnavailable("disk I/O error: /secret/path")
            case "midway":
                return StreamingResponse(_breaking())
        raise ValueError("a bug")


async def _breaking() -> AsyncIterator[bytes]:
    yield b"[1,"
    raise ValueError("midway")


async def raw_get(live: Live, path: str) -> httpx.Response:
    url = httpx.URL(live.url).copy_with(raw_path=path.encode())
    return await live.client.get(url)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/notes/a", {"note": "a"}),
        ("/notes/harbor/hello-world:0", {"note": "harbor/hello-world:0"}),
        ("/notes/a%20b%2Fc%3F", {"note": "a b/c?"}),
        ("/notes/a/tags", {"tags of": "a", "limit": 7}),
        ("/notes/a/b/tags?limit=3", {"tags of": "a/b", "limit": 3}),
        ("/notes/a%2Ftags", {"note": "a/tags"}),
        ("/notes/tags", {"note": "tags"}),
        ("/notes/a/v1", {"note": "a/v1"}),
        ("/notes/a%2Fv1%2Fb", {"note": "a/v1/b"}),
    ],
)
async def test_control_path_parameter_is_parsed(
    gateway_for: GatewayFor, path: str, answer: dict[str, object]
) -> None:
    live = await gateway_for(Notes)
    assert (await raw_get(live, path)).json() == answer


@pytest.mark.parametrize("path", ["/notes/", "/notes", "/notes/a/v1/b", "/notes/a/v1/tags"])
async def test_control_path_without_a_valid_name_returns_404(
    gateway_for: GatewayFor, path: str
) -> None:
    live = await gateway_for(Notes)
    answer = await raw_get(live, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_control_route_answers_405_with_allowed_methods(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Notes)
    refused = await live.client.delete("/notes/a/tags")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert (await live.client.head("/notes/a")).status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"text": "\\ud800"}', "invalid_json", None),
        (b'{"text": "\xff"}', "invalid_json", None),
        (b'{"more": ' + b"[" * 5000, "invalid_json", None),
        (b"[]", "invalid_request", None),
        (b"{}", "invalid_request", "text"),
        (b'{"text": null}', "invalid_request", "text"),
        (b'{"text": "", "tags": [1]}', "invalid_request", "tags[0]"),
        (b'{"text": "", "tag": []}', "invalid_request", "tag"),
    ],
)
async def test_control_route_rejects_a_bad_body_by_its_field(
    gateway_for: GatewayFor, body: bytes, code: str, param: str | None
) -> None:
    live = await gateway_for(Notes)
    refused = await live.client.post("/notes/a", content=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=", "limit=1.5", "l=1"])
async def test_control_route_rejects_a_bad_query(gateway_for: GatewayFor, query: str) -> None:
    live = await gateway_for(Notes)
    refused = await live.client.get(f"/notes/a/tags?{query}")
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("limit=5&limit=5", "names a parameter twice: limit: give it once"),
        ("limit=5&since=1&limit=6", "names a parameter twice: limit: give it once"),
        ("%00=1&%00=", 'names a parameter twice: "\\x00": give it once'),
        ("since=x", "since: expected a number of at most 9"),
    ],
)
async def test_control_route_says_what_to_mend_in_a_query(
    gateway_for: GatewayFor, query: str, told: str
) -> None:
    live = await gateway_for(Notes)
    refused = await live.client.get(f"/notes/a/tags?{query}")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].endswith(told)


async def test_control_route_rejects_a_body_over_max_body_bytes(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Notes, server_limits=ServerLimits(max_body_bytes=100))
    refused = await live.client.post("/notes/a", json={"text": "x" * 100})
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
    assert (await live.client.post("/notes/a", json={"text": "x"})).json()["text"] == "x"


async def test_control_route_times_out_on_an_incomplete_body(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Notes, timeouts=Timeouts(idle=0.05))
    async with RawClient(*live.server.address) as client:
        await client.send(b"POST /notes/a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        answer = await client.answer()
    assert answer.status == 408


async def test_control_route_closes_if_the_caller_leaves_mid_body(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    live = await gateway_for(Notes)
    reader, writer = await asyncio.open_connection(*live.server.address)
    writer.write(b"POST /notes/a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("refused", 400, "invalid_request"),
        ("bug", 500, "internal_error"),
        ("storage", 503, "storage_unavailable"),
    ],
)
async def test_control_route_errors_use_the_error_envelope(
    gateway_for: GatewayFor, how: str, status: int, code: str
) -> None:
    live = await gateway_for(Notes)
    answer = await live.client.get(f"/broken/{how}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "secret" not in answer.text


async def test_control_stream_that_fails_midway_is_cut_off(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    live = await gateway_for(Notes)
    async with RawClient(*live.server.address) as client:
        with pytest.raises(CutShort) as cut:
            await client.ask("GET", "/broken/midway")
    assert cut.value.answer.body == b"[1,"
    told = [record.getMessage() for record in caplog.records if record.name == "gateway"]
    assert told == ["the answer to /broken/midway broke off"]
    assert "Unexpected ASGI message" not in caplog.text


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def route(path: str) -> ControlRoute:
    return ControlRoute(path, None, {}, Gateway(Config()))


@given(names)
def test_control_path_decodes_any_encoded_name(name: str) -> None:
    raw = httpx.URL("http://h").copy_with(raw_path=f"/n/{_quoted(name)}/tags".encode()).raw_path
    scope = {"type": "http", "path": "/", "raw_path": raw}
    _, child = route("/n/{id}/tags").matches(scope)
    assert child["path_params"] == {"id": name}


def _quoted(name: str) -> str:
    return "".join(f"%{byte:02X}" for byte in name.encode())


@given(st.text(st.sampled_from("/v1ta%2F"), max_size=30))
def test_session_path_matches_either_a_call_or_a_control_route(tail: str) -> None:
    path = f"/sessions/{tail}"
    scope = {"type": "http", "path": "/", "raw_path": path.encode()}
    match, _ = route("/sessions/{id}").matches(scope)
    carries = Gateway(Config()).carries
    assert not (match.value and split_session_path(path, carries))
