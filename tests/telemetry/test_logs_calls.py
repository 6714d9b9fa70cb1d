"""One id leads from the caller's answer to the worker, to the trace and to each line of the log."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways.capturing import CAPTURE, chat
from support.plugins.breaking_hooks import Clumsy
from support.plugins.hook_probes import Breaking
from support.plugins.recording_plugin import until
from support.plugins.samplers import Sampler

from gateway import Call, Principal, create_app, hookimpl
from gateway.config import Config, StorageSettings
from gateway.pipeline.local import LocalHandler
from gateway.telemetry.logs import Formatter, TextFormatter
from gateway.testing import GatewayFor, ScriptedWorker, answer_of, entry, live

CHAT = "/v1/chat/completions"
ID = "follow-me-1"
PLAIN = answer_of(b'{"choices": [{"index": 0, "message": {"content": "Hi"}}]}')


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None]]:
    """Message and call_id of each error, as they are written."""
    lines = [json.loads(Formatter().format(one)) for one in caplog.records]
    return [(line["message"], line.get("call_id")) for line in lines if line["level"] == "error"]


async def test_call_id_appears_in_response_worker_request_trace_and_logs(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "access.log"
    breaking = entry(Breaking, at="observer.started")
    plugins = (Open, "sessions", CAPTURE, entry("access_log", path=str(file)), breaking)
    async with ScriptedWorker(PLAIN) as worker:
        running = await gateway_for(*plugins, workers=[worker.url])
        url, given = f"/sessions/s{CHAT}", {"x-request-id": ID}
        answer = await running.client.post(url, json=chat(), headers=given)
        [trace] = (await running.client.get("/sessions/s/traces")).json()
        await until(lambda: bool(file.read_bytes()))
    assert answer.headers["x-request-id"] == ID
    [request] = worker.requests
    assert f"x-request-id: {ID}\r\n".encode() in request
    said = "plugin Breaking broke in observer.started; further failures of it are only counted"
    assert told(caplog) == [(said, ID)]
    assert trace["call_id"] == ID
    assert json.loads(file.read_bytes())["call_id"] == ID


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("admit", "plugin Clumsy broke in admit; the call is refused"),
        ("pick_worker", "plugin Clumsy broke in pick_worker; the call is refused"),
        ("observe", "plugin Clumsy broke in observe; further failures of it are only counted"),
        ("data", "plugin Clumsy broke in observer.data; further failures of it are only counted"),
        ("call_finished", "plugin Clumsy broke in call_finished; further failures of it are only"),
        ("answer", "the gateway failed on a call"),
    ],
)
async def test_log_of_a_failing_hook_has_the_call_id(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture, where: str, said: str
) -> None:
    async with ScriptedWorker(PLAIN) as worker:
        running = await gateway_for(Clumsy, Open, workers=[worker.url])
        headers = {"x-request-id": ID, "x-break": where}
        with suppress(httpx.RemoteProtocolError):  # where half an answer was out
            await running.client.post(CHAT, json=chat(), headers=headers)
    assert {call_id for message, call_id in told(caplog) if message.startswith(said)} == {ID}


@pytest.mark.parametrize("records", ["", "yes"])
async def test_logs_of_a_call_have_the_ids_of_its_distributed_trace(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture, records: str
) -> None:
    file = tmp_path / "access.log"
    trace, parent = "ab" * 16, "cd" * 8
    given = {"traceparent": f"00-{trace}-{parent}-01", "x-records": records}
    async with ScriptedWorker(PLAIN) as worker:
        breaking = entry(Breaking, at="observer.started")
        log = entry("access_log", path=str(file))
        running = await gateway_for(breaking, log, Sampler, workers=[worker.url])
        await running.client.post(CHAT, json=chat(), headers=given)
        await until(lambda: bool(file.read_bytes()))
    [context] = running.plugin(Sampler).contexts
    [record] = [one for one in caplog.records if one.levelname == "ERROR"]
    for line in (json.loads(Formatter().format(record)), json.loads(file.read_bytes())):
        assert (line["trace_id"], line["span_id"]) == (trace, context.span_id)
    text = TextFormatter().format(record).partition("\n")[0]
    assert text.endswith(f" trace_id={trace} span_id={context.span_id}")
    assert (context.span_id == parent) == (not records), "the caller's, if there is no own span"


async def test_logs_of_a_call_in_no_distributed_trace_have_no_ids_of_one(
    gateway_for: GatewayFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "access.log"
    async with ScriptedWorker(PLAIN) as worker:
        breaking = entry(Breaking, at="observer.started")
        log = entry("access_log", path=str(file))
        running = await gateway_for(breaking, log, workers=[worker.url])
        await running.client.post(CHAT, json=chat(), headers={"traceparent": "00-0-0-01"})
        await until(lambda: bool(file.read_bytes()))
    [record] = [one for one in caplog.records if one.levelname == "ERROR"]
    for line in (json.loads(Formatter().format(record)), json.loads(file.read_bytes())):
        assert {"trace_id", "span_id"}.isdisjoint(line)


class Open:
    """Lets everybody do all that is done here."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return Principal("anybody", frozenset({"realtime", "sessions"}))


async def unsendable(body: dict[str, Any]) -> dict[str, Any]:
    return {"choices": object()}


async def failing(body: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(body)


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (unsendable, "the local handler's answer cannot be sent"),
        (failing, "the local handler failed"),
    ],
)
async def test_log_of_a_failing_local_handler_has_the_call_id(
    caplog: pytest.LogCaptureFixture, handler: LocalHandler, said: str
) -> None:
    async with live(
        create_app(Config(storage=StorageSettings(path=":memory:")), local_handler=handler)
    ) as running:
        await running.client.post(CHAT, json=chat(), headers={"x-request-id": ID})
    assert told(caplog) == [(said, ID)]
