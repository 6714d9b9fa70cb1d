"""Which session a call belongs to."""

import httpx
import pytest
from gateway_plugins.sessions import SESSION_PATH
from hypothesis import given
from hypothesis import strategies as st

from gateway import Call, hookimpl
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
        ("/sessions/a/v1beta/v1/models", "a/v1beta", "/v1/models"),
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


@pytest.mark.parametrize("session_id", ["x" * 257, "a%01b"])
async def test_invalid_session_ids_are_rejected(gateway_for: GatewayFor, session_id: str) -> None:
    gateway = await gateway_for("sessions")
    answer = await get(gateway, f"/sessions/{session_id}/v1/models")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_session_id"


async def test_session_paths_return_404_without_the_plugin(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for()
    assert (await get(gateway, "/sessions/a/v1/models")).status_code == 404


names = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="/"), min_size=1
)


@given(names.filter(lambda name: name != "v1"), names)
def test_session_path_splits_any_id_and_path(session_id: str, tail: str) -> None:
    match = SESSION_PATH.fullmatch(f"/sessions/{session_id}/v1/{tail}")
    assert match is not None
    assert (match["id"], match["path"]) == (session_id, f"/v1/{tail}")
