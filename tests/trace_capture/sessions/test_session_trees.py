"""The harness of a call in its trace, and sessions that a session started."""

from pathlib import Path

import pytest
from support.gateways.capturing import capturing

from gateway.testing import GatewayFor, Live

OPENCODE = {"user-agent": "opencode/1.18.33", "x-session-id": "child"}
PARENT = {"x-parent-session-id": "parent"}


async def ask(gateway: Live, **headers: str) -> None:
    body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}
    url = "/v1/chat/completions"
    answer = await gateway.client.post(url, json=body, headers={**OPENCODE, **headers})
    answer.raise_for_status()


async def test_harness_of_a_call_is_in_its_trace(gateway_for: GatewayFor, tmp_path: Path) -> None:
    gateway = await capturing(gateway_for, tmp_path)
    await ask(gateway, **PARENT)
    [trace] = (await gateway.client.get("/sessions/child/traces")).json()
    assert trace["harness"] == {
        "name": "opencode",
        "agent_id": None,
        "parent_agent_id": None,
        "parent_session_id": "parent",
        "call_kind": None,
    }


@pytest.mark.parametrize("first", [{}, PARENT])
async def test_session_keeps_the_parent_that_any_of_its_calls_names(
    gateway_for: GatewayFor, tmp_path: Path, first: dict[str, str]
) -> None:
    gateway = await capturing(gateway_for, tmp_path)
    await ask(gateway, **first)
    await ask(gateway, **PARENT)
    await ask(gateway, **{"x-session-id": "parent"})
    session = (await gateway.client.get("/sessions/child")).json()
    assert session["parent_session_id"] == "parent"
    children = (await gateway.client.get("/sessions", params={"parent": "parent"})).json()
    assert [one["session_id"] for one in children] == ["child"]
    assert (await gateway.client.get("/sessions", params={"parent": "child"})).json() == []
