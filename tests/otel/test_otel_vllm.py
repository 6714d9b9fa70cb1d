"""A real vLLM with tracing: `VLLM_HOME=DIR pytest -m vllm tests/otel -n 0`."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from support.gateways.capturing import chat
from support.otel.collector import collecting, told
from support.plugins.recording_plugin import until
from trace_capture.tapped.engine import VLLM

from gateway.testing import GatewayFor, entry

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

CHAT = "/v1/chat/completions"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def test_span_of_vllm_is_a_child_of_the_attempt(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = os.environ.get("VLLM_HOME")
    if home is None:
        pytest.skip("set VLLM_HOME to a folder with venv/bin/vllm and model")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    with collecting() as collector, (tmp_path / "vllm.log").open("wb") as log:
        engine = VLLM(Path(home), log)
        try:
            traces = f"{collector.url}/v1/traces"
            await engine.start(Path(home) / "model", "--otlp-traces-endpoint", traces)
            live = await gateway_for(
                entry("otel", endpoint=collector.url, ratio=0), workers=(engine.url,)
            )
            for flags in ("00", "01"):
                headers = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
                usage = {"stream": True, "stream_options": {"include_usage": True}}
                body = {**chat(max_tokens=5), "model": "tiny", **usage}
                response = await live.client.post(CHAT, json=body, headers=headers)
                assert response.status_code == 200, response.text
            await until(lambda: len(of_trace(collector.spans)) >= 3)
            await asyncio.sleep(1)  # time in which a span of the other call would come
        finally:
            await engine.kill()
    found = of_trace(collector.spans)
    call = next(one for one in found if one.parent_span_id.hex() == PARENT)
    attempt = next(one for one in found if one.parent_span_id == call.span_id)
    [theirs] = [one for one in found if one.parent_span_id == attempt.span_id]
    assert len(found) == 3
    said = told(theirs)
    assert said["gen_ai.usage.completion_tokens"] == told(call)["gen_ai.usage.output_tokens"] == 5
    assert said["gen_ai.usage.prompt_tokens"] == told(call)["gen_ai.usage.input_tokens"]
    assert attempt.start_time_unix_nano <= theirs.start_time_unix_nano
    assert told(call)["gen_ai.response.finish_reasons"] == ["length"]


def of_trace(spans: list[Any]) -> list[Any]:
    return [one for one in spans if one.trace_id.hex() == TRACE]
