"""Options of a gateway that runs: a reload takes those that are not the port's."""

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import httpx
from support.grpc.stubs import as_of_old, channel, make_stubs, serving_grpc

from gateway.simulator import Simulator


async def test_reload_takes_another_default_model_and_rejects_another_port(
    simulator: Simulator, tmp_path: Path
) -> None:
    messages, stubs = make_stubs(as_of_old(tmp_path), tmp_path)
    file = tmp_path / "gateway.yaml"

    def ask(port: int) -> Any:
        with channel(port) as opened:
            asked = messages.ChatCompletionRequest(user_prompt="Hi", max_tokens=2)
            try:
                return stubs.LlmServiceStub(opened).ChatCompletion(asked, timeout=10).output_text
            except grpc.RpcError as error:
                return error.code()

    async def reload(url: str, old: str, new: str) -> httpx.Response:
        file.write_text(re.sub(old, new, file.read_text()))
        async with httpx.AsyncClient(base_url=url) as client:
            return await client.post("/admin/reload")

    options = ["default_model: other"]
    async with serving_grpc(simulator.url, tmp_path, options=options) as (at, port):
        assert await asyncio.to_thread(ask, port) is grpc.StatusCode.NOT_FOUND
        changed = await reload(at.url, "default_model: other", "default_model: sim")
        assert changed.json()["changed"]["plugins"]["changed"] == ["grpc"]
        assert isinstance(await asyncio.to_thread(ask, port), str)
        refused = await reload(at.url, "port: 0", "port: 1")
        assert refused.status_code == 400
        said = refused.json()["error"]["message"]
        assert "port: it cannot change while the gateway runs; restart it" in said
        assert isinstance(await asyncio.to_thread(ask, port), str)
