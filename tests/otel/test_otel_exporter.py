"""The exporter: a collector that is slow, full, broken or away costs nothing but its spans."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import pytest
from gateway_plugins.otel import Otel
from gateway_plugins.otel.exporting import exporter as module
from gateway_plugins.otel.exporting.exporter import Exporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from support.callers.scraping import scrape
from support.gateways.capturing import chat
from support.otel.collector import (
    Collector,
    Reply,
    collecting,
    collecting_over_grpc,
    told,
)
from support.plugins.recording_plugin import until
from support.ports import free_port

from gateway.config import PluginEntry
from gateway.testing import GatewayFor, Live, ScriptedWorker, answer_of, entry

CHAT = "/v1/chat/completions"
ANSWER = answer_of(b'{"choices": []}')
PROTOCOLS: Mapping[object, str] = {collecting: "http/protobuf", collecting_over_grpc: "grpc"}
DROPPED, SENT = "gateway_otel_spans_dropped_total", "gateway_otel_spans_sent_total"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.01,))


def otel(url: str, **options: object) -> PluginEntry:
    return entry("otel", endpoint=url, **options)


async def ask(live: Live, times: int = 1) -> None:
    for _ in range(times):
        assert (await live.client.post(CHAT, json=chat())).status_code == 200


def exporter_of(live: Live) -> Exporter:
    found = live.plugin(Otel)._exporter
    assert found is not None
    return found


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "gateway.otel"]


async def test_collector_that_is_away_is_told_once_and_its_spans_are_counted(
    gateway_for: GatewayFor, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(
            otel(f"http://u:sesame@127.0.0.1:{port}"), "metrics", workers=(worker.url,)
        )
        await ask(live, 3)
        exporter = exporter_of(live)
        await until(lambda: exporter.dropped["unreachable"] == 6)
        assert (await scrape(live)).value("gateway_otel_collector_away") == 1
        assert (await scrape(live)).value(DROPPED, reason="unreachable") == 6
        with collecting(port) as collector:
            await ask(live)
            await asyncio.to_thread(collector.wait, 2)
            await until(lambda: exporter.sent == 2)
        found = await scrape(live)
    assert (found.value(SENT), found.value("gateway_otel_collector_away")) == (2, 0)
    away, back = lines(caplog)
    where = f"the collector at http://127.0.0.1:{port}/v1/traces"
    assert away.startswith(f"{where} does not take spans")
    assert back == f"{where} takes spans again"
    assert "sesame" not in caplog.text


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_full_collector_gets_the_same_spans_again(
    gateway_for: GatewayFor, collector: Collector, status: int
) -> None:
    collector.first = [Reply(status, {"retry-after": "0"})] * 2
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url), workers=(worker.url,))
        await ask(live)
        await asyncio.to_thread(collector.wait, 2, 3)
        exporter = exporter_of(live)
        await until(lambda: exporter.sent == 2)
    assert not exporter.dropped


async def test_retry_after_of_the_collector_is_kept(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    collector.reply = Reply(429, {"retry-after": "3600"})
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url), workers=(worker.url,))
        await ask(live)
        await asyncio.to_thread(collector.wait, requests=1)
        await ask(live, 3)
        exporter = exporter_of(live)
        await until(lambda: exporter.waiting == 3)
        assert len(collector.headers) == 1


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413, 500])
async def test_refused_spans_are_not_sent_again(
    gateway_for: GatewayFor, collector: Collector, status: int
) -> None:
    collector.reply = Reply(status, {"location": f"{collector.url}/elsewhere"})
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url), workers=(worker.url,))
        await ask(live)
        exporter = exporter_of(live)
        await until(lambda: exporter.dropped["refused"] == 2)
    assert len(collector.headers) == 1


async def test_spans_that_the_collector_rejects_are_counted(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    said = ExportTraceServiceResponse()
    said.partial_success.rejected_spans = 1
    collector.reply = Reply(body=said.SerializeToString())
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url), workers=(worker.url,))
        await ask(live)
        exporter = exporter_of(live)
        await until(lambda: exporter.sent == 1)
    assert exporter.dropped == {"refused": 1}


async def test_slow_collector_makes_no_call_wait_and_bounds_what_waits(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    collector.held.clear()
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(
            otel(collector.url, max_waiting=5, flush_timeout=0), workers=(worker.url,)
        )
        await ask(live, 20)
        exporter = exporter_of(live)
        await until(lambda: exporter.dropped["queue_full"] > 0)
        assert exporter.waiting <= 5
    collector.held.set()


async def test_request_ends_after_the_timeout_of_the_variable(
    gateway_for: GatewayFor, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "50")
    collector.held.clear()
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url, flush_timeout=0), workers=(worker.url,))
        await ask(live)
        exporter = exporter_of(live)
        await until(lambda: exporter.dropped["unreachable"] == 2)
    collector.held.set()


async def test_waiting_spans_are_sent_at_shutdown(
    gateway_for: GatewayFor, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 3600)
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url), workers=(worker.url,))
        await ask(live, 3)
        exporter = exporter_of(live)
        assert exporter.waiting == 3
        await asyncio.to_thread(exporter.end, 5)
    assert len(collector.spans) == 6


async def test_shutdown_takes_no_longer_than_it_may(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    collector.reply = Reply(503, {"retry-after": "50"})
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url), workers=(worker.url,))
        await ask(live)
        await asyncio.to_thread(collector.wait, requests=1)
        await ask(live, 2)
        exporter = exporter_of(live)
        async with asyncio.timeout(5):
            await asyncio.to_thread(exporter.end, 1)
    assert sum(exporter.dropped.values()) == 6


async def test_grpc_carries_the_same_spans(gateway_for: GatewayFor) -> None:
    with collecting_over_grpc() as collector:
        headers = {"X-Key": "k"}
        async with ScriptedWorker(ANSWER) as worker:
            plugin = otel(collector.url, protocol="grpc", headers=headers, compression="gzip")
            live = await gateway_for(plugin, workers=(worker.url,))
            collector.first = [Reply(503)]
            await ask(live)
            call, attempt = await asyncio.to_thread(collector.wait, 2)
    assert collector.headers[-1]["x-key"] == "k"
    assert attempt.parent_span_id == call.span_id


@pytest.mark.parametrize("over", [collecting, collecting_over_grpc])
async def test_proxies_of_the_environment_are_ignored(
    gateway_for: GatewayFor,
    over: Callable[[], AbstractContextManager[Collector]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOLS[over])
    with over() as collector:
        async with ScriptedWorker(ANSWER) as worker:
            live = await gateway_for(otel(collector.url), workers=(worker.url,))
            await ask(live)
            await asyncio.to_thread(collector.wait, 2)


async def test_variables_of_opentelemetry_say_where_and_who(
    gateway_for: GatewayFor, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/base/",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b,x-other=c",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": "front",
        "OTEL_RESOURCE_ATTRIBUTES": "zone=a%2Cb,service.name=other",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with ScriptedWorker(ANSWER) as worker:
        plugin = entry("otel", headers={"X-Other": "mine"}, resource={"more": "1"})
        live = await gateway_for(plugin, workers=(worker.url,))
        await ask(live)
        await asyncio.to_thread(collector.wait, 2)
    [headers] = collector.headers
    assert headers[":path"] == "/base/v1/traces"
    assert (headers["x-key"], headers["x-other"]) == ("a b", "mine")
    assert headers["content-encoding"] == "gzip"
    [part] = collector.requests[0].resource_spans
    resource = told(part.resource)
    assert resource.items() >= {"service.name": "front", "zone": "a,b", "more": "1"}.items()
    assert part.scope_spans[0].scope.name == "gateway_plugins.otel"


async def test_requests_are_not_logged(
    gateway_for: GatewayFor, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with ScriptedWorker(ANSWER) as worker:
        live = await gateway_for(otel(collector.url), workers=(worker.url,))
        caplog.clear()
        exporter = exporter_of(live)
        await ask(live)
        await until(lambda: exporter.sent == 2)
    assert not [one for one in caplog.records if "v1/traces" in one.getMessage()]
