"""Which session a call belongs to."""

from urllib.parse import quote, unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import BaseRoute
from support.callers.raw_client import RawClient

from gateway import Call, Host, NotFound, hookimpl, read_session_id, split_session_path
from gateway.testing import GatewayFor, Live, entry


class Witness:
    """Keeps each call's session and path, as they are when it is over."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, str]] = []

    @hookimpl
    async def call_finished(self, call: Call) -> None:
        self.seen.append((call.session_id, call.path))


async def get(gateway: Live, path: str, **headers: str) -> httpx.Response:
    return await gateway.client.get(path, headers=headers)


@pytest.mark.parametrize(
    ("path", "session_id", "carried"),
    [
        ("/sessions/a/v1/models", "a", "/v1/models"),
        ("/sessions/harbor/hello-world:0/v1/models", "harbor/hello-world:0", "/v1/models"),
        ("/sessions/a%20b%2Fc/v1/models", "a b/c", "/v1/models"),
        ("/sessions/v1/v1/models", "v1", "/v1/models"),
        ("/sessions/a/v1/b/v1/c", "a", "/v1/b/v1/c"),
        ("/sessions/a%2Fv1beta/v1/models", "a/v1beta", "/v1/models"),
        ("/sessions/harbor/hello%3A0/v1/models", "harbor/hello:0", "/v1/models"),
        ("/sessions/inference/v1/models", "inference", "/v1/models"),
        ("/sessions/a/inference/v1/generate", "a", "/inference/v1/generate"),
        ("/sessions/harbor/x:0/inference/v1/generate", "harbor/x:0", "/inference/v1/generate"),
        ("/sessions/a/tokenize", "a", "/tokenize"),
        ("/sessions/a%2Fb/detokenize", "a/b", "/detokenize"),
        ("/sessions/a/tokenizer_info", "a", "/tokenizer_info"),
        ("/sessions/tokenize/tokenize", "tokenize", "/tokenize"),
        ("/sessions/a/v1/completions/render", "a", "/v1/completions/render"),
        ("/sessions/a/v1/%7Eb", "a", "/v1/%7Eb"),
    ],
)
async def test_session_id_is_read_from_the_path(
    gateway_for: GatewayFor, path: str, session_id: str, carried: str
) -> None:
    gateway = await gateway_for("sessions", Witness)
    await get(gateway, path)
    assert gateway.plugin(Witness).seen == [(session_id, carried)]


async def test_session_id_is_read_from_the_header_if_not_in_the_path(
    gateway_for: GatewayFor,
) -> None:
    gateway = await gateway_for("sessions", Witness)
    await get(gateway, "/v1/models", **{"X-Session-ID": "by header"})
    await get(gateway, "/sessions/by-path/v1/models", **{"X-Session-ID": "by header"})
    await get(gateway, "/v1/models")
    sessions = [session_id for session_id, _ in gateway.plugin(Witness).seen]
    assert sessions == ["by header", "by-path", None]


async def test_blanks_around_the_session_header_are_no_part_of_the_id(
    gateway_for: GatewayFor,
) -> None:
    gateway = await gateway_for("sessions", Witness)
    url = httpx.URL(gateway.url)
    for value in (b"  a b \t", b" \t "):
        async with RawClient(url.host, url.port or 80) as client:
            await client.ask("GET", "/v1/models", [(b"x-session-id", value)])
    assert [session_id for session_id, _ in gateway.plugin(Witness).seen] == ["a b", None]


async def test_session_header_is_configurable(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(entry("sessions", header="X-Agent"), Witness)
    await get(gateway, "/v1/models", **{"x-agent": "a", "x-session-id": "b"})
    assert gateway.plugin(Witness).seen == [("a", "/v1/models")]


@pytest.mark.parametrize("path", ["/sessions/a", "/sessions/a/v1", "/sessions/a/v1/", "/sessions/"])
async def test_session_path_without_a_call_path_returns_404(
    gateway_for: GatewayFor, path: str
) -> None:
    gateway = await gateway_for("sessions")
    answer = await get(gateway, path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/sessions/a/v1/../pause", "/sessions/a/v1/%2e%2e/pause"])
async def test_session_path_cannot_escape_v1(gateway_for: GatewayFor, path: str) -> None:
    gateway = await gateway_for("sessions", Witness)
    url = httpx.URL(gateway.url).copy_with(raw_path=path.encode())
    assert (await gateway.client.get(url)).status_code == 404
    assert gateway.plugin(Witness).seen == []


@pytest.mark.parametrize("session_id", ["x" * 257, "a%01b", "%2E", "%2e%2E"])
async def test_invalid_session_ids_are_rejected(gateway_for: GatewayFor, session_id: str) -> None:
    gateway = await gateway_for("sessions")
    path = f"/sessions/{session_id}/v1/models"
    answer = await gateway.client.get(httpx.URL(gateway.url).copy_with(raw_path=path.encode()))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_session_id"


async def test_session_paths_return_404_without_the_plugin(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for()
    assert (await get(gateway, "/sessions/a/v1/models")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/sessions/a/b/v1/models",
        "/sessions/a/unknown/v1/generate",
        "/sessions/a/b/tokenize",
        "/sessions/a//v1/models",
        "/sessions//v1/models",
        "/sessions//a:0/v1/models",
        "/sessions/%FF/v1/models",
    ],
)
async def test_part_of_a_path_that_cannot_be_a_session_id_returns_404_with_the_reason(
    gateway_for: GatewayFor, path: str
) -> None:
    gateway = await gateway_for("sessions", Witness)
    answer = await gateway.client.get(httpx.URL(gateway.url).copy_with(raw_path=path.encode()))
    assert answer.status_code == 404
    assert "session id" in answer.json()["error"]["message"]
    assert gateway.plugin(Witness).seen == []


async def test_session_stands_in_front_of_configured_paths_and_those_of_plugins(
    gateway_for: GatewayFor,
) -> None:
    gateway = await gateway_for("sessions", Carrying, Witness, extra_paths=("/mine/v1/x",))
    for path in ("/mine/v1/x", "/theirs"):
        await get(gateway, f"/sessions/a{path}")
        assert gateway.plugin(Witness).seen.pop() == ("a", path)
    answer = await get(gateway, "/sessions/a/tokenize")  # replaced by the configuration
    assert answer.status_code == 404


class Carrying:
    """A plugin whose path leads to the workers."""

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [*gateway.carry_also("/theirs")]


def carries(path: str) -> bool:
    return path.startswith("/v1/") or path == "/inference/v1/generate"


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
tails = st.sampled_from(["/v1/a", "/v1/b/v1/c", "/inference/v1/generate"])


@given(names, tails)
def test_session_path_splits_any_encoded_id_from_any_path(session_id: str, tail: str) -> None:
    found = split_session_path(f"/sessions/{quote(session_id, safe='')}{tail}", carries)
    assert found is not None
    assert (read_session_id(found[0]), found[1]) == (session_id, tail)


@given(st.text(st.sampled_from("/v1a:.%2F")), tails)
def test_session_path_with_slashes_is_a_rollout_or_refused(part: str, tail: str) -> None:
    found = split_session_path(f"/sessions/{part}{tail}", carries)
    if found is None:
        return
    try:
        session_id = read_session_id(found[0])
    except NotFound:
        return
    assert session_id
    assert "/" not in found[0] or ":" in unquote(found[0].rpartition("/")[2])
