"""What /metrics tells of calls and workers is what happened, and a scraper can read it."""

import asyncio
import re
import shutil
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from support.callers.scraping import Scrape, everything, scrape
from support.gateways.capturing import chat
from support.paths import DOCS
from support.plugins.hook_probes import Door, Keys
from support.plugins.recording_plugin import Watcher, until
from support.runtime.boxes import scrape_of_a_box
from support.workers.failing_on_demand import ask, breaker, fail
from support.workers.failing_worker import refusal

from gateway.simulator import Simulator
from gateway.testing import (
    DONE,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    sse,
)

CHAT = "/v1/chat/completions"
REQUESTS = "gateway_requests_total"
MANUAL = (DOCS / "metrics.md").read_text()

EVENTS = [sse({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in "abc"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_metrics_count_and_time_plain_and_streamed_responses(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("metrics", tokens=True))
    for stream in (False, True, True):
        body = chat(max_tokens=5, stream=stream)
        if stream:
            body["stream_options"] = {"include_usage": True}
        assert (await live.client.post(CHAT, json=body)).status_code == 200
    found = await scrape(live)
    labels = {"route": CHAT, "model": "sim", "worker": live.gateway.workers.all[0].id}
    assert found.value(REQUESTS, status="200", **labels) == found.value(REQUESTS) == 3
    assert found.value("gen_ai_server_request_duration_seconds_count", **labels) == 3
    assert found.value("gen_ai_server_time_to_first_token_seconds_count", **labels) == 2
    assert found.value("gateway_queue_time_seconds_count", **labels) == 3
    assert found.value("gateway_overhead_seconds_count") == 3
    usage = "gen_ai_client_token_usage_sum"
    assert found.value(usage, gen_ai_token_type="output", **labels) == 15
    assert found.value(usage, gen_ai_token_type="input", **labels) > 0
    for kind in ("input", "output"):
        former = found.value(usage, gen_ai_token_type=kind, **labels)
        spent = f"gen_ai_client_inference_usage_{kind}_tokens_total"
        assert found.value(spent, gen_ai_token_modality="unknown", **labels) == former
        of_a_call = f"gen_ai_client_inference_operation_{kind}_tokens_sum"
        assert found.value(of_a_call, **labels) == former
    assert found.value("gateway_errors_total") == found.value("gateway_aborts_total") == 0
    assert found.value("gateway_calls_in_flight") == 0


async def test_metrics_count_the_gaps_between_stream_events(gateway_for: GatewayFor) -> None:
    heard = asyncio.Event()

    async def stream(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD + chunk(EVENTS[0][:7]))
        await connection.write(chunk(EVENTS[0][7:]))
        await heard.wait()
        await connection.write(chunk(b"".join([*EVENTS[1:], DONE])) + b"0\r\n\r\n")

    async with ScriptedWorker(stream) as worker:
        live = await gateway_for("metrics", workers=(worker.url,))
        async with live.client.stream("POST", CHAT, json=chat(stream=True)) as answer:
            async for line in answer.aiter_lines():
                heard.set()
                assert line != "data: nothing"
        found = await scrape(live)
    name = "gen_ai_server_time_per_output_token_seconds"
    assert found.value(f"{name}_count") == 3
    assert found.value(f"{name}_bucket", le="0.001") >= 2, "what comes in one read has no gap"
    assert found.value("gen_ai_server_time_to_first_token_seconds_count") == 1


async def test_metrics_count_gateway_errors_by_code(gateway_for: GatewayFor) -> None:
    async def break_off(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD + chunk(EVENTS[0]))

    async with ScriptedWorker(b"") as gone:
        pass
    async with ScriptedWorker(break_off) as breaking:
        live = await gateway_for("metrics", Watcher, workers=(breaking.url,))
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(live, stream=True)
        away = await gateway_for("metrics", workers=(gone.url,))
        assert (await ask(away)).status_code == 502
        said = await scrape(live)
    assert said.value("gateway_errors_total", code="upstream_closed") == 1
    assert said.value(REQUESTS, status="200") == 1, "it had begun when it broke off"
    refused = await scrape(away)
    assert refused.value("gateway_errors_total", code="upstream_connect_failed") == 1
    assert refused.value(REQUESTS, status="502") == 1


async def test_metrics_count_worker_errors_by_status(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}", status="500 Broken")) as worker:
        live = await gateway_for("metrics", workers=(worker.url,))
        assert (await ask(live)).status_code == 500
        found = await scrape(live)
    assert found.value(REQUESTS, status="500") == 1
    assert found.value("gateway_errors_total") == 0


async def test_metrics_count_caller_disconnects(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Door, "metrics", Watcher)
    waiting = asyncio.create_task(ask(live))
    await live.plugin(Door).reached.wait()
    found = await scrape(live)
    assert found.value("gateway_calls_in_flight") == 1
    waiting.cancel()
    await live.plugin(Watcher).outcome()
    found = await scrape(live)
    assert found.value("gateway_aborts_total") == found.value(REQUESTS, status="0") == 1
    assert found.value("gateway_queue_time_seconds_count") == 0, "no worker was asked"


async def test_metrics_count_retries_by_their_cause(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    refusing = refusal(503)
    async with ScriptedWorker(refusing) as worker:
        live = await gateway_for("metrics", workers=(worker.url, simulator.url))
        for _ in range(2):
            assert (await ask(live)).status_code == 200
        found = await scrape(live)
        refuser = live.gateway.workers.all[0].id
    assert found.value("gateway_retries_total") >= 1
    retried = found.value("gateway_retries_total")
    assert found.value("gateway_retries_total", worker=refuser, after="503") == retried
    assert found.value(REQUESTS, status="200") == found.value(REQUESTS) == 2


async def test_metrics_show_an_ejected_worker(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}", status="500 Broken")) as worker:
        live = await gateway_for(breaker(), "metrics", workers=(worker.url,))
        await fail(live, 2)
        found = await scrape(live)
    assert found.value("gateway_breaker_changes_total", change="ejected") == 1
    assert found.value("gateway_breaker_state", state="ejected") == 1
    assert found.value("gateway_breaker_state") == 1
    assert found.value("gateway_worker_up") == 0
    assert found.value("gateway_worker_state", state="ejected") == 1


async def test_metrics_show_the_queue(gateway_for: GatewayFor, simulator: Simulator) -> None:
    async with ScriptedWorker(wait_for_its_end) as worker:
        options = {"max_in_flight_per_worker": 1, "queue": {"max_length": 1, "max_wait": 30.0}}
        live = await gateway_for(
            entry("backpressure", **options), "metrics", Watcher, workers=(worker.url,)
        )
        calls = [asyncio.create_task(ask(live)) for _ in range(2)]
        proxy = live.gateway.proxy
        await until(lambda: len(proxy.in_flight) == 2 and live.gateway.workers.slots.used == 1)
        refused = await ask(live)
        found = await scrape(live)
        for call in calls:
            call.cancel()
        await live.plugin(Watcher).calls(3)
    assert found.value("gateway_queue_length") == 1
    assert found.value("gateway_worker_in_flight") == found.value("gateway_worker_slots") == 1
    assert found.value("gateway_queue_refused_total", reason="full") == 1
    assert found.value(REQUESTS, status=str(refused.status_code)) == 1


async def wait_for_its_end(connection: ScriptedConnection) -> None:
    await connection.wait_closed()


async def test_metrics_count_trace_verdicts_and_commits(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", "trace_capture", "metrics")
    for stream in (False, True):
        await ask(live, stream=stream)
    await live.client.post(CHAT, content=b"{}")
    found = await scrape(live)
    assert found.value("gateway_traces_total", verdict="COMPLETE") == 2
    assert found.value("gateway_traces_total", verdict="INCOMPLETE") == 1
    assert found.value("gateway_storage_commit_seconds_count") >= 1
    assert found.value("gateway_storage_committed_total") == 3
    assert found.value("gateway_storage_waiting") == 0


async def test_metrics_measure_the_event_loop_lag(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway_plugins.metrics.LAG_INTERVAL", 0.001)
    live = await gateway_for("metrics")
    async with asyncio.timeout(20):
        while not (await scrape(live)).value("gateway_event_loop_lag_seconds_count"):
            pass


async def test_metrics_require_authentication_if_calls_do(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry(Keys, key="a"), "metrics")
    refused = await live.client.get("/metrics")
    assert (refused.status_code, "gateway_" in refused.text) == (401, False)
    assert "gateway_calls_in_flight" in (await scrape(live, authorization="abc")).families


async def test_scrape_under_load_is_consistent(gateway_for: GatewayFor) -> None:
    live = await gateway_for("metrics")
    calls = asyncio.gather(*(ask(live, stream=True) for _ in range(40)))
    seen = [0.0]
    while not calls.done():
        seen.extend(sorted(whole(one) for one in await several(live)))
    await calls
    seen.append(whole(await scrape(live)))
    assert seen[-1] == 40
    assert seen == sorted(seen), "counters do not go back"


async def several(live: Live) -> list[Scrape]:
    return list(await asyncio.gather(*(scrape(live) for _ in range(3))))


def whole(found: Scrape) -> float:
    """The calls counted so far, and each histogram counts all of them."""
    count = found.value(REQUESTS)
    for name in ("gen_ai_server_request_duration_seconds", "gateway_queue_time_seconds"):
        assert found.value(f"{name}_count") == found.value(f"{name}_bucket", le="+Inf") == count
    return count


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1", "application/openmetrics"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=none", ""),  # either will do
        ("application/openmetrics-text;version=9..9", "application/openmetrics"),
        ("text/plain;version=\xe9;escaping=\xe9,;;;===", "text/plain; version=0.0.4"),
        ("", "text/plain; version=0.0.4"),
    ],
)
async def test_metrics_answer_any_accept_header(
    gateway_for: GatewayFor, accept: str, kind: str
) -> None:
    live = await gateway_for("metrics")
    await ask(live)
    answer = await live.client.get("/metrics", headers={b"accept": accept.encode("latin-1")})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    if "openmetrics" in answer.headers["content-type"]:
        assert "gateway_requests" in {one.name for one in read_openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    else:
        assert Scrape(answer.text).value(REQUESTS) == 1


async def test_promtool_accepts_the_metrics_of_all_plugins(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    found = await everything(gateway_for, simulator)
    for name, family in found.families.items():
        assert family.documentation.endswith("."), name
        assert family.type in ("counter", "gauge", "histogram"), name
    assert found.value("gateway_hook_failures_total", plugin="BrokenWatcher") == 3
    assert found.value("gateway_worker_weight_version") == 7
    assert found.value("gateway_principal_requests_total", principal="a") == 2
    assert found.value("gateway_errors_total", code="invalid_api_key") == 1
    promtool = shutil.which("promtool")
    if promtool is None:
        return
    process = await asyncio.create_subprocess_exec(
        *(promtool, "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(found.text.encode())
    assert (process.returncode, said) == (0, b"")


async def test_metrics_tell_cached_and_reasoning_tokens_apart(gateway_for: GatewayFor) -> None:
    usage = (
        b'{"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details":'
        b' {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}}'
    )
    body = b'{"choices": [], "usage": %s}' % usage
    async with ScriptedWorker(answer_of(body)) as worker:
        live = await gateway_for(entry("metrics", tokens=True), workers=(worker.url,))
        for _ in range(2):
            await live.client.post(CHAT, json=chat())
        found = await scrape(live)
    spent = "gen_ai_client_inference_usage"
    assert found.value(f"{spent}_cache_read_input_tokens_total") == 8
    assert found.value(f"{spent}_reasoning_output_tokens_total") == 6


async def test_manual_lists_exactly_the_existing_metrics(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path
) -> None:
    found = await everything(gateway_for, simulator)
    of_runtimes = await scrape_of_a_box(gateway_for, tmp_path)
    told = {
        f"{name}_total" if family.type == "counter" else name
        for name, family in (*found.families.items(), *of_runtimes.families.items())
    }
    assert set(re.findall(r"^\| `((?:gateway|gen_ai|llm)_\w+)`", MANUAL, re.MULTILINE)) == told
