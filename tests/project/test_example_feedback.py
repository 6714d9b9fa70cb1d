"""The example feedback.py: callers rate their calls, and the ratings outlive the gateway."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from project.test_examples import CHAT, MESSAGES, example
from support.gateways.with_keys import TOKEN, KeysOnDisk, code_of, key, keyed

from gateway import ConfigError
from gateway.config import Config, StorageSettings, Worker
from gateway.simulator import Simulator
from gateway.testing import NO_PROBES, GatewayFor, Live, entry, live

HEADER = "x-feedback-id"


async def chat(gateway: Live, header: str = HEADER, **fields: object) -> str:
    """Make a call; return the id that its response has."""
    path, body = CHAT
    answer = await gateway.client.post(path, json={**body, "model": "sim", **fields})
    return answer.headers[header]


async def rate(gateway: Live, call: str, body: object) -> httpx.Response:
    return await gateway.client.post(f"/feedback/{call}", json=body)


async def totals(gateway: Live) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.client.get("/feedback")).json()
    return found


async def scraped(gateway: Live) -> dict[str, float]:
    text = (await gateway.client.get("/metrics")).text
    samples = [line.split() for line in text.splitlines() if line.startswith("gateway_feedback")]
    return {name: float(value) for name, value in samples}


def counted(up: int, down: int) -> dict[str, float]:
    name = "gateway_feedback_total"
    return {f'{name}{{thumb="up"}}': up, f'{name}{{thumb="down"}}': down}


@pytest.mark.parametrize("stream", [False, True])
async def test_feedback_rates_a_call_as_soon_as_its_response_is_whole(
    gateway_for: GatewayFor, stream: bool
) -> None:
    gateway = await gateway_for("metrics", example("feedback.py"))
    calls = [await chat(gateway, stream=stream) for _ in range(3)]
    assert len(set(calls)) == 3
    assert await totals(gateway) == [{"model": "sim", "calls": 3, "up": 0, "down": 0}]
    assert await scraped(gateway) == counted(up=0, down=0)
    for call, up in zip(calls, (True, False, True), strict=True):
        answer = await rate(gateway, call, {"up": up})
        assert (answer.status_code, answer.json()) == (200, {"up": up})
    assert await totals(gateway) == [{"model": "sim", "calls": 3, "up": 2, "down": 1}]
    await rate(gateway, calls[0], {"up": False})
    assert await totals(gateway) == [{"model": "sim", "calls": 3, "up": 1, "down": 2}]
    assert await scraped(gateway) == counted(up=2, down=2)


async def test_feedback_rejects_unknown_calls_and_other_bodies(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for("metrics", example("feedback.py"))
    failed = await chat(gateway, model="none")
    assert code_of(await rate(gateway, failed, {"up": True})) == (404, "not_found")
    whole = await chat(gateway)
    for body in ({}, {"up": 1}, {"up": True, "why": "nice"}):
        assert code_of(await rate(gateway, whole, body)) == (400, "invalid_request")
    assert await totals(gateway) == [{"model": "sim", "calls": 1, "up": 0, "down": 0}]
    assert await scraped(gateway) == counted(up=0, down=0)


async def test_feedback_survives_a_restart(simulator: Simulator, tmp_path: Path) -> None:
    config = Config(
        workers=(Worker(url=simulator.url),),
        plugins=(entry("metrics"), example("feedback.py")),
        storage=StorageSettings(path=str(tmp_path / "gateway.db")),
        probes=NO_PROBES,
    )
    async with live(config) as first:
        rated, unrated = [await chat(first) for _ in range(2)]
        await rate(first, rated, {"up": True})
    async with live(config) as second:
        assert await totals(second) == [{"model": "sim", "calls": 2, "up": 1, "down": 0}]
        assert (await rate(second, unrated, {"up": False})).status_code == 200
        assert await totals(second) == [{"model": "sim", "calls": 2, "up": 1, "down": 1}]
        assert await scraped(second) == counted(up=0, down=1), "counters begin anew"


async def test_feedback_requires_the_scopes_of_its_routes(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    disk = KeysOnDisk(tmp_path / "keys.json")
    tokens = {scope: f"{TOKEN}-{scope}" for scope in ("realtime", "sessions", "monitor")}
    disk.write(*(key(token, id=scope, scopes=[scope]) for scope, token in tokens.items()))
    gateway = await keyed(gateway_for, disk, example("feedback.py"))

    async def status(method: str, path: str, scope: str, body: object = None) -> int:
        headers = {"authorization": f"Bearer {tokens[scope]}"}
        answer = await gateway.client.request(method, path, headers=headers, json=body)
        return answer.status_code

    assert [await status("GET", "/feedback", scope) for scope in tokens] == [403, 403, 200]
    post = ("POST", "/feedback/unknown")
    assert [await status(*post, scope, {"up": True}) for scope in tokens] == [403, 404, 403]
    assert await status("POST", CHAT[0], "realtime", {"messages": MESSAGES}) == 200


async def test_feedback_header_is_an_option(gateway_for: GatewayFor) -> None:
    gateway = await gateway_for(example("feedback.py", header="x-call"))
    assert (await rate(gateway, await chat(gateway, "x-call"), {"up": True})).status_code == 200
    with pytest.raises(ConfigError, match="header"):
        await gateway_for(example("feedback.py", header="x call"))
