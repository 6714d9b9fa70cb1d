"""A gateway that shuts down lets responses in the background end within `timeouts.drain`."""

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stored_responses.conftest import STORED
from support.callers.raw_client import RawClient
from support.gateways.serving_process import Process, serving

from gateway.simulator import Simulator

JSON = (b"content-type", b"application/json")
BODY = b'{"model":"sim","input":"Hello","background":true,"ignore_eos":true,"max_output_tokens":%d}'


async def begin(process: Process, tokens: int) -> str:
    async with process.client() as client:
        lines = [JSON, (b"x-sim-fault", b"slow:0.05")]
        answer = await client.ask("POST", "/v1/responses", lines, BODY % tokens)
        return str(msgspec.json.decode(answer.body)["id"])


async def show(client: RawClient, id_: str) -> Any:
    return msgspec.json.decode((await client.ask("GET", f"/v1/responses/{id_}")).body)


@pytest.mark.parametrize(
    ("drain", "tokens", "status", "code"),
    [("30", 10, "incomplete", None), ("0.1", 500, "failed", "drain_timeout")],
)
async def test_a_response_in_the_background_may_end_within_the_drain(
    tmp_path: Path, drain: str, tokens: int, status: str, code: str | None
) -> None:
    settings = {"timeouts__drain": drain, "storage__path": str(tmp_path / "kept.db")}
    async with Simulator() as worker:
        async with serving(worker.url, "--plugin", STORED, **settings) as process:
            id_ = await begin(process, tokens)
            process.kill(signal.SIGTERM)
            assert await process.ended() == 0
        async with (
            serving(worker.url, "--plugin", STORED, **settings) as process,
            process.client() as client,
        ):
            found = await show(client, id_)
    assert (found["status"], found["error"] and found["error"]["code"]) == (status, code)
