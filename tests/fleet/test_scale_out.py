"""A vLLM without --enable-scale-out: callers get its own words, operators those of the gateway."""

import logging

import pytest
from support.records.vllm_recordings import load
from support.workers.playing import Playing, raw

from gateway import Gateway
from gateway.fleet.injection_support import ScaleOut
from gateway.testing import GatewayFor, ScriptedWorker

RECORDED = load()
REFUSED = RECORDED["default/generate_n2"]
SERVED = RECORDED["devmode/generate_n2"]
PATH = "/inference/v1/generate"


@pytest.mark.parametrize("plugins", [(), ("trace_capture",)], ids=["bare", "captured"])
async def test_engine_without_scale_out_is_told_of(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture, plugins: tuple[str, ...]
) -> None:
    playing = Playing()
    async with ScriptedWorker(playing.script) as worker:
        live = await gateway_for(*plugins, workers=(worker.url,))
        playing.pieces = [raw(REFUSED)]
        with caplog.at_level(logging.WARNING, "gateway"):
            for _ in range(2):
                said = await live.client.post(PATH, content=REFUSED.request_body)
                assert (said.status_code, said.content) == (403, REFUSED.body)
        told = [one for one in caplog.messages if "--enable-scale-out" in one]
        assert len(told) == 1
        assert hints(live.gateway) == [ScaleOut.HINT]
        listed = (await live.client.get("/health/workers")).text
        assert "--enable-scale-out" in listed

        playing.pieces = [raw(SERVED)]
        assert (await live.client.post(PATH, content=SERVED.request_body)).status_code == 200
        assert hints(live.gateway) == []


async def test_another_403_is_no_hint(gateway_for: GatewayFor) -> None:
    body = b'{"error":{"message":"No: Scale-out endpoints are disabled.","code":403}}'
    head = b"HTTP/1.1 403 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    async with ScriptedWorker(head % len(body) + body) as worker:
        live = await gateway_for(workers=(worker.url,))
        said = await live.client.post("/v1/chat/completions", json={})
        assert (said.status_code, said.content) == (403, body)
        assert hints(live.gateway) == []


async def test_another_worker_that_serves_it_takes_the_call(gateway_for: GatewayFor) -> None:
    refusing, serving = Playing(), Playing()
    refusing.pieces, serving.pieces = [raw(REFUSED)], [raw(SERVED)]
    async with ScriptedWorker(refusing.script) as one, ScriptedWorker(serving.script) as two:
        live = await gateway_for(workers=(one.url, two.url))
        for _ in range(3):
            said = await live.client.post(PATH, content=SERVED.request_body)
            assert (said.status_code, said.content) == (200, SERVED.body)


def hints(gateway: Gateway) -> list[str]:
    return gateway.workers.all[0].info().hints
