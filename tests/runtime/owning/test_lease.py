"""Two gateways of one database: one owns the engines, the other waits for it to end."""

from pathlib import Path

import pytest
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, box, fleet_of, model, starts

from gateway.config import Config, StorageSettings
from gateway.testing import NO_PROBES, live

pytestmark = pytest.mark.slow


async def test_fault_5_10_second_gateway_starts_no_engine_until_the_first_has_ended(
    tmp_path: Path,
) -> None:
    storage = StorageSettings(path=str(tmp_path / "gateway.db"))
    runtime = box(tmp_path, model("a"), runtime={"realtime": "a"}, hold=0.1)
    config = Config(plugins=(runtime,), probes=NO_PROBES, storage=storage)
    async with live(config) as first:
        await until(lambda: fleet_of(first).owners[0].state.phase == "hot")
        async with live(config) as second:
            answer = await second.client.post(CHAT, json=chat(model="a"))
            assert answer.status_code == 503
            assert (await second.client.get("/admin/runtime")).json()["owned"] is False
            assert starts(tmp_path) == 1
            await first.gateway.drain(0)
            await first.server.shutdown()
            await until(lambda: fleet_of(second).owners[0].state.phase == "hot")
            assert (await second.client.post(CHAT, json=chat(model="a"))).status_code == 200
