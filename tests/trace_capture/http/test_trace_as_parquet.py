"""One trace as a file of Parquet."""

import io
from pathlib import Path

import pyarrow.parquet
import pytest
from gateway_plugins.trace_capture.exports import parquet
from support.gateways.capturing import call, capturing

from gateway import ConfigError
from gateway.testing import GatewayFor


async def test_trace_is_sent_as_a_row_of_parquet(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "s")
    [trace] = (await live.client.get("/sessions/s/traces")).json()
    path = f"/traces/{trace['trace_id']}"
    answer = await live.client.get(path, params={"format": "parquet"})
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    [row] = pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()
    for name in ("trace_id", "session_id", "prompt_token_ids", "completion_token_ids", "verdict"):
        assert row[name] == trace[name]
    assert (await live.client.get(path, params={"format": "csv"})).status_code == 400


async def test_trace_as_parquet_without_its_library_says_what_to_install(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ConfigError("Parquet needs pyarrow: pip install 'llm-call-gateway[parquet]'")

    live = await capturing(gateway_for, tmp_path)
    await call(live, "s")
    [trace] = (await live.client.get("/sessions/s/traces")).json()
    monkeypatch.setattr(parquet, "load", missing)
    answer = await live.client.get(f"/traces/{trace['trace_id']}", params={"format": "parquet"})
    assert answer.status_code == 400
    assert "pip install" in answer.text
