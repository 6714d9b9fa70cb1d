"""Phoenix, a viewer of other people's: `PHOENIX_HOME=DIR pytest -m clients tests/otel -n 0`.

DIR is a Python environment with arize-phoenix in it (tried with 20.26.1).
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from otel.test_otel import PARENT, SAMPLED, TRACE, answer
from support.gateways.capturing import chat
from support.ports import free_port

from gateway.testing import GatewayFor, ScriptedWorker, entry

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

CHAT = "/v1/chat/completions"
READY_IN = 200


@contextmanager
def phoenix(folder: Path) -> Iterator[tuple[str, str]]:
    """A Phoenix that listens; gives its addresses for HTTP and for gRPC."""
    home = os.environ.get("PHOENIX_HOME")
    if home is None:
        pytest.skip("set PHOENIX_HOME to an environment with arize-phoenix")
    port, grpc_port = free_port(), free_port()
    variables = {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    with (folder / "phoenix.log").open("wb") as log:
        process = subprocess.Popen(
            [f"{home}/bin/phoenix", "serve"],
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{grpc_port}"
        finally:
            process.terminate()
            process.wait(30)


async def found_by(viewer: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """The spans of the viewer, once there are `count`."""
    async with asyncio.timeout(READY_IN):
        while True:
            try:
                response = await viewer.get("/v1/projects/default/spans")
                if response.status_code == 200 and len(response.json()["data"]) >= count:
                    data: list[dict[str, Any]] = response.json()["data"]
                    return data
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_phoenix_shows_spans_as_they_were_sent(
    gateway_for: GatewayFor, tmp_path: Path, protocol: str
) -> None:
    with phoenix(tmp_path) as (url, grpc_url):
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False) as viewer,
            ScriptedWorker(answer()) as worker,
        ):
            await found_by(viewer, 0)
            where = entry(
                "otel", endpoint=url if protocol == "http" else grpc_url, protocol=protocol
            )
            live = await gateway_for("sessions", where, workers=(worker.url,))
            headers = {"traceparent": SAMPLED, "x-session-id": "s1", "x-request-id": "mine"}
            await live.client.post(CHAT, json=chat(temperature=0.5), headers=headers)
            found = await found_by(viewer, 2)
    spans = {one["parent_id"]: one for one in found}
    call = spans[PARENT]
    attempt = spans[call["context"]["span_id"]]
    assert call["context"]["trace_id"] == attempt["context"]["trace_id"] == TRACE
    assert (call["name"], call["span_kind"]) == ("chat sim", "LLM")
    said = call["attributes"]
    assert said["gen_ai.usage.input_tokens"] == said["llm.token_count.prompt"] == 9
    assert said["gen_ai.usage.output_tokens"] == said["llm.token_count.completion"] == 5
    assert said["llm.model_name"] in ("sim", "answered")
    assert said["session.id"] == "s1"
    assert said["gen_ai.response.finish_reasons"] == ["stop"]
    assert [event["name"] for event in call["events"]] == ["gateway.queue", "gateway.first_token"]
    assert attempt["attributes"]["http.response.status_code"] == 200
