"""Many sessions at once, callers that leave, and several processes: places stay as they should."""

import asyncio
import contextlib
import random
from pathlib import Path

import httpx
from gateway_plugins.session_admission import SessionAdmission

from gateway import Gateway, config
from gateway.cluster.peers import Peers
from gateway.config import Config, StorageSettings
from gateway.simulator import Simulator
from gateway.testing import NO_PROBES, GatewayFor, Live, entry, live

PLACES = 2
CHAT = {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


async def agent(open_gateway: Live, number: int, chance: random.Random) -> int:
    """Some turns, of which the caller leaves one in five; returns how many went well."""
    well = 0
    for at in range(3):
        final = {"x-dynamo-session-final": "true"} if at == 2 else {}
        path = f"/sessions/agent-{number}/v1/chat/completions"
        turn = asyncio.create_task(open_gateway.client.post(path, json=CHAT, headers=final))
        if chance.random() < 0.2:
            await asyncio.sleep(0)
            turn.cancel()
        with contextlib.suppress(asyncio.CancelledError, httpx.TransportError):
            well += (await turn).status_code == 200
    return well


async def test_crowd_of_sessions_never_has_more_places_than_there_are(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    workers = [config.Worker(url=simulator.url, worker_id=f"gpu-{n}") for n in range(2)]
    admission = entry(SessionAdmission, max_hot_per_worker=PLACES, ttl=0.02)
    opened = await gateway_for("sessions", admission, "stickiness", workers=workers)
    agents = [
        asyncio.create_task(agent(opened, number, random.Random(number))) for number in range(24)
    ]
    most = 0
    while not all(one.done() for one in agents):
        found = (await opened.client.get("/admin/admission")).json()
        hot = [one["hot"] for one in found["workers"].values()]
        most = max(most, *hot)
        assert max(hot) <= PLACES
    assert most == PLACES
    assert sum([await one for one in agents]) > 36
    async with asyncio.timeout(30):
        while (found := (await opened.client.get("/admin/admission")).json())["waiting"]:
            pass
        while any(one["hot"] for one in found["workers"].values()):
            found = (await opened.client.get("/admin/admission")).json()


async def test_process_has_its_part_of_the_places(simulator: Simulator, tmp_path: Path) -> None:
    found = Config(
        workers=(config.Worker(url=simulator.url, worker_id="gpu-0"),),
        plugins=(entry(SessionAdmission, max_hot_per_worker=5, max_waiting=3),),
        storage=StorageSettings(path=":memory:"),
        probes=NO_PROBES,
    )
    for index, places, waiting in ((0, 3, 2), (1, 2, 1)):
        async with live(Gateway(found, peers=Peers(index, 2, tmp_path))) as running:
            shown = (await running.client.get("/admin/admission")).json()
            assert shown["workers"]["gpu-0"]["limit"] == places
            assert shown["max_waiting"] == waiting
