"""redact_trace and trace_recorded: what they may do, and what their failures do."""

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.gateways.capturing import CAPTURE, call, capturing
from support.plugins.capture_probes import Breaking, Reader, Redactor
from support.plugins.recording_plugin import until

from gateway import Config
from gateway.config import StorageSettings
from gateway.testing import GatewayFor, Live, entry, live

pytestmark = pytest.mark.usefixtures("kernel_of_module")


async def one_trace(running: Live) -> dict[str, Any]:
    [found] = (await running.client.get("/sessions/a/traces")).json()
    return dict(found)


async def redacted(gateway_for: GatewayFor, folder: Path, does: str) -> dict[str, Any]:
    """The trace of a call whose answer its caller has seen whole."""
    running = await capturing(gateway_for, folder, entry(Redactor, does=does))
    answer = await call(running, "a", content="a secret")
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    return await one_trace(running)


async def test_redact_trace_without_changes_stores_the_trace_as_it_is(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    trace = await redacted(gateway_for, tmp_path, "nothing")
    assert trace["messages"][0]["content"] == "a secret"
    assert (trace["metadata"], trace["verdict"]) == ({}, "COMPLETE")


async def test_redact_trace_keeps_the_verdict_if_it_only_adds_tags(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    trace = await redacted(gateway_for, tmp_path, "tags")
    assert trace["messages"][0]["content"] == "a secret"
    assert (trace["metadata"], trace["verdict"]) == ({"tag": 1}, "COMPLETE")


async def test_redact_trace_that_removes_tokens_makes_the_trace_incomplete(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    trace = await redacted(gateway_for, tmp_path, "tokens")
    assert (trace["verdict"], trace["reasons"]) == ("INCOMPLETE", ["redacted"])
    assert trace["choices"][0]["reasons"] == ["redacted"]


async def test_redact_trace_may_replace_the_trace(gateway_for: GatewayFor, tmp_path: Path) -> None:
    running = await capturing(gateway_for, tmp_path, entry(Redactor, does="another"))
    await call(running, "a")
    trace = await one_trace(running)
    assert (trace["metadata"], trace["messages"]) == ({"only": "this"}, [])
    assert trace["verdict"] == "INCOMPLETE"


async def test_redact_trace_that_fails_stores_nothing_in_clear(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = await redacted(gateway_for, tmp_path, "breaks")
    assert (trace["verdict"], trace["reasons"]) == ("INCOMPLETE", ["capture_failed"])
    assert (trace["messages"], trace["raw_request"], trace["choices"]) == ([], None, [])
    assert "plugin Redactor broke in redact_trace" in caplog.text


@pytest.mark.parametrize("does", ["words", "breaks"])
async def test_redacted_text_does_not_return_with_the_next_turn(
    gateway_for: GatewayFor, tmp_path: Path, does: str
) -> None:
    running = await capturing(gateway_for, tmp_path, entry(Redactor, does=does), Reader)
    reader = running.plugin(Reader)
    for _ in range(3):
        await call(running, "a", content="a secret " * 20)
    await until(lambda: len(reader.traces) == 3)
    assert b"a secret" not in msgspec.json.encode(reader.traces), "nor does the next hook see it"
    assert "a secret" not in (await running.client.get("/sessions/a/traces")).text
    db = sqlite3.connect(tmp_path / "traces.db")
    assert db.execute("SELECT count(*) FROM traces WHERE base IS NOT NULL").fetchone() == (0,)
    db.close()


async def test_trace_recorded_drops_traces_for_a_slow_hook(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    capture = entry(CAPTURE, max_queued=2)
    running = await gateway_for(
        "sessions", capture, Reader, storage=StorageSettings(path=str(tmp_path / "traces.db"))
    )
    reader = running.plugin(Reader)
    reader.may_go_on.clear()
    await call(running, "a")
    await until(reader.begun.is_set)
    for _ in range(5):  # two of them wait behind the first one
        await call(running, "a")
    [plugin] = [one.object for one in running.gateway.plugins.loaded if one.name == "TraceCapture"]
    assert plugin.hooks.dropped == 3
    assert [text for text in caplog.messages if "too slow" in text] == [
        "a trace_recorded hook is too slow; traces are dropped for it"
    ]
    reader.may_go_on.set()
    await until(lambda: len(reader.traces) == 3)
    stored = (await running.client.get("/sessions/a/traces")).json()
    assert [one.trace_id for one in reader.traces] == [one["trace_id"] for one in stored[:3]]


async def test_trace_recorded_isolates_and_counts_a_failing_hook(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = await capturing(gateway_for, tmp_path, Breaking, Reader)
    for _ in range(3):
        await call(running, "a")
    reader = running.plugin(Reader)
    await until(lambda: len(reader.traces) == 3)
    assert running.gateway.chains.failures.counts["Breaking", "trace_recorded"] == 3
    assert caplog.text.count("plugin Breaking broke in trace_recorded") == 1


async def test_trace_recorded_gets_pending_traces_before_shutdown(tmp_path: Path) -> None:
    plugins = (entry("sessions"), entry(CAPTURE), entry(Reader))
    config = Config(plugins=plugins, storage=StorageSettings(path=str(tmp_path / "traces.db")))
    async with live(config) as running:  # without a worker: each call is refused, and recorded
        for _ in range(4):
            refused = await running.client.post("/sessions/a/v1/chat/completions", json={})
            assert refused.status_code == 503
        reader = running.plugin(Reader)
    assert [trace.reasons for trace in reader.traces] == [["error_answer"]] * 4
