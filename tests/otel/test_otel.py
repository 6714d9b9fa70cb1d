"""Spans of calls, as a collector gets them over a real socket, each field held to the manual."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.gateways.capturing import chat
from support.otel.collector import Collector, collecting, told
from support.paths import DOCS
from support.plugins.hook_probes import Keys
from support.plugins.recording_plugin import until
from support.workers.failing_on_demand import AT_ONCE, Moody, breaker

from gateway import Trace, hookimpl
from gateway.config import Failover
from gateway.testing import GatewayFor, Live, ScriptedWorker, answer_of, entry

CHAT = "/v1/chat/completions"
MANUAL = (DOCS / "observe.md").read_text()
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
SERVER, CLIENT, ERROR = 2, 3, 2
FAILOVER = Failover(backoff=AT_ONCE, statuses=(500,), budget=1)
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def answer(**fields: object) -> bytes:
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    body = {"id": "c1", "model": "answered", "choices": [choice], "usage": USAGE, **fields}
    return answer_of(json.dumps(body).encode())


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


async def spans(collector: Collector, count: int) -> list[Any]:
    return await asyncio.to_thread(collector.wait, count)


def manual(head: str) -> set[str]:
    """The names in the first column of a table, and in its text where a row has several."""
    rows = MANUAL.partition(f"| {head} |")[2].partition("\n\n")[0]
    found = {name for row in rows.split("\n")[2:] for name in re.findall(r"`([a-z_.]+)`", row)}
    return {name for name in found if re.match(r"(gen_ai|http|url|server|error|gateway)\.", name)}


async def test_call_and_attempt_are_spans_of_the_callers_trace(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    async with ScriptedWorker(answer()) as worker:
        live = await gateway_for(entry("otel", endpoint=collector.url), workers=(worker.url,))
        headers = {"traceparent": SAMPLED, "tracestate": "a=1", "x-request-id": "mine"}
        assert (await live.client.post(CHAT, json=chat(), headers=headers)).status_code == 200
        call, attempt = await spans(collector, 2)
    assert call.trace_id.hex() == attempt.trace_id.hex() == TRACE
    assert call.parent_span_id.hex() == PARENT
    assert attempt.parent_span_id == call.span_id
    assert call.trace_state == attempt.trace_state == "a=1"
    assert (call.kind, attempt.kind) == (SERVER, CLIENT)
    assert (call.name, attempt.name) == ("chat sim", f"POST {CHAT}")
    assert call.start_time_unix_nano <= attempt.start_time_unix_nano
    assert attempt.end_time_unix_nano <= call.end_time_unix_nano
    assert (call.flags, attempt.flags) == (0x301, 0x101)
    assert f"-{attempt.span_id.hex()}-01".encode() in worker.requests[0]


async def test_attributes_of_a_call_are_those_of_the_conventions(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    async with ScriptedWorker(answer()) as worker:
        live = await gateway_for(
            "sessions", entry("otel", endpoint=collector.url), workers=(worker.url,)
        )
        headers = {"x-request-id": "mine", "x-session-id": "s1"}
        await live.client.post(CHAT, json=chat(temperature=0.5, seed=7, n=2), headers=headers)
        call, attempt = map(told, await spans(collector, 2))
    assert call == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "sim",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.conversation.id": "s1",
        "gen_ai.response.id": "c1",
        "gen_ai.response.model": "answered",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 3,
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "url.path": CHAT,
        "gateway.call.id": "mine",
        "gateway.result": "success",
        "gateway.frontend": "http",
        "gateway.source": "realtime",
        "gateway.attempts": 1,
    }
    port = int(worker.url.rpartition(":")[2])
    assert attempt == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{worker.url}{CHAT}",
        "gateway.worker": f"127.0.0.1:{port}",
    }


async def test_stream_has_its_first_token_and_how_it_ended(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    live = await gateway_for(entry("otel", endpoint=collector.url))
    await live.client.post(CHAT, json=chat(stream=True, max_tokens=200))
    call, attempt = await spans(collector, 2)
    found = told(call)
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.finish_reasons"] in (["length"], ["stop"])
    assert found["gen_ai.response.model"] == "sim"
    assert 0 <= found["gateway.overhead"] < 10
    assert found["gen_ai.response.id"].startswith("chatcmpl-")
    first = {event.name: event.time_unix_nano for event in call.events}["gateway.first_token"]
    assert attempt.start_time_unix_nano <= first <= call.end_time_unix_nano
    seconds = (first - call.start_time_unix_nano) / 1e9
    assert found["gen_ai.response.time_to_first_chunk"] == pytest.approx(seconds)
    assert [event.name for event in attempt.events] == ["gateway.first_byte"]


async def until_ejected(live: Live) -> None:
    """Embeddings, which may run again: the first worker fails them until it is ejected."""
    while not live.gateway.workers.all[0].conditions:
        body = {"model": "sim", "input": "a"}
        headers = {"authorization": "a"}
        response = await live.client.post("/v1/embeddings", json=body, headers=headers)
        assert response.status_code == 200


async def test_retry_and_ejection_are_events_and_each_attempt_a_span(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    async with Moody() as sick, ScriptedWorker(answer()) as well:
        sick.well = False
        live = await gateway_for(
            breaker(consecutive_failures=1),
            entry("otel", endpoint=collector.url),
            workers=(sick.url, well.url),
            failover=FAILOVER,
        )
        await until_ejected(live)
        found = await spans(collector, 3)
    retried = next(one for one in found if told(one).get("gateway.attempts") == 2)
    first, second = [one for one in found if one.parent_span_id == retried.span_id]
    assert (told(first)["error.type"], told(first)["http.response.status_code"]) == ("500", 500)
    assert (first.status.code, second.status.code, retried.status.code) == (ERROR, 0, 0)
    assert told(second)["http.request.resend_count"] == 1
    assert "error.type" not in told(second)
    events = {event.name: told(event) for event in retried.events}
    name = told(first)["gateway.worker"]
    assert events["gateway.ejection"] == {"gateway.worker": name}
    retry = {"gateway.worker": told(second)["gateway.worker"], "gateway.retry.after": "500"}
    assert events["gateway.retry"] == retry
    assert events["gateway.queue"]["gateway.queue.duration"] >= 0


async def test_rejected_call_has_a_span_without_an_attempt(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    live = await gateway_for(entry(Keys, key="a"), entry("otel", endpoint=collector.url))
    assert (await live.client.post(CHAT, json=chat())).status_code == 401
    [call] = await spans(collector, 1)
    assert told(call)["error.type"] == "invalid_api_key"
    assert told(call)["http.response.status_code"] == 401
    assert call.status.code == 0


async def test_path_that_is_no_work_of_a_model_has_no_attributes_of_models(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    live = await gateway_for(entry("otel", endpoint=collector.url))
    assert (await live.client.get("/v1/files")).status_code == 404
    call, attempt = await spans(collector, 2)
    assert (call.name, attempt.name) == ("GET /v1/files", "GET /v1/files")
    assert not [name for name in told(call) if name.startswith("gen_ai.")]


async def test_sampling_follows_the_caller_and_else_the_ratio(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    async with ScriptedWorker(answer()) as worker:
        nothing = entry("otel", endpoint=collector.url, ratio=0)
        live = await gateway_for(nothing, workers=(worker.url,))
        for parent in ("", UNSAMPLED, SAMPLED):
            headers = {"traceparent": parent} if parent else {}
            await live.client.post(CHAT, json=chat(), headers=headers)
        call, _ = await spans(collector, 2)
        assert call.parent_span_id.hex() == PARENT
        flags = [re.search(rb"traceparent: 00-\w+-\w+-(\w+)", one) for one in worker.requests]
    assert len(collector.spans) == 2
    assert [bool(int(one[1], 16) & 1) for one in flags if one] == [False, False, True]


async def test_former_generation_by_the_variable(
    gateway_for: GatewayFor, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    live = await gateway_for(entry("otel", endpoint=collector.url, content=True))
    await live.client.post(CHAT, json=chat(stream=True))
    call, _ = await spans(collector, 2)
    found = {name for name in told(call) if name.startswith("gen_ai.")}
    assert found == {
        *("gen_ai.operation.name", "gen_ai.system", "gen_ai.request.model"),
        *("gen_ai.request.max_tokens", "gen_ai.response.model", "gen_ai.response.id"),
        *("gen_ai.response.finish_reasons", "gen_ai.usage.input_tokens"),
        "gen_ai.usage.output_tokens",
    }


class Redactor:
    @hookimpl
    def redact_trace(self, trace: Trace) -> None:
        if "fail" in str(trace.messages):
            raise RuntimeError("no")
        for message in trace.messages:
            message["content"] = message["content"].replace("secret", "***")


async def test_content_is_recorded_if_wanted_and_after_redaction(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    otel = entry("otel", endpoint=collector.url, content=True)
    async with ScriptedWorker(answer()) as worker:
        live = await gateway_for(Redactor, otel, workers=(worker.url,))
        for said in ("my secret", "fail"):
            await live.client.post(CHAT, json=chat(said))
        first, _, second, _ = await spans(collector, 4)
    asked = json.loads(told(first)["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "my ***"}]}]
    got = json.loads(told(first)["gen_ai.output.messages"])
    assert got == [{"role": "assistant", "parts": [{"type": "text", "content": "Hi"}]}]
    assert not {"gen_ai.input.messages", "gen_ai.output.messages"} & told(second).keys()
    assert live.gateway.failures.counts["Redactor", "redact_trace"] == 1


async def test_no_content_without_the_option(gateway_for: GatewayFor, collector: Collector) -> None:
    async with ScriptedWorker(answer()) as worker:
        live = await gateway_for(entry("otel", endpoint=collector.url), workers=(worker.url,))
        headers = {"authorization": "Bearer sesame", "x-mine": "sesame"}
        await live.client.post(CHAT, json=chat("sesame"), headers=headers)
        found = await spans(collector, 2)
    assert "sesame" not in str(found)
    assert "Hi" not in str(found)


async def test_manual_lists_exactly_what_spans_say(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    floats = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
    parameters = {**dict.fromkeys(floats, 0.5), "top_k": 3, "seed": 1, "n": 2}
    body = {**chat(reasoning_effort="low"), **parameters}
    headers = {"x-session-id": "s", "authorization": "a"}
    async with Moody() as sick, ScriptedWorker(answer()) as well:
        sick.well = False
        live = await gateway_for(
            entry(Keys, key="a"),
            *("sessions", breaker(consecutive_failures=1)),
            entry("otel", endpoint=collector.url, content=True),
            workers=(sick.url, well.url),
            failover=FAILOVER,
        )
        await until_ejected(live)
        for _ in range(2):
            assert (await live.client.post(CHAT, json=body, headers=headers)).status_code == 200
        assert (await live.client.post(CHAT, json=body)).status_code == 401
    live = await gateway_for(entry("otel", endpoint=collector.url, content=True))
    await live.client.post(CHAT, json=chat(stream=True))
    latest = "gen_ai.request.stream", "int_value: 401"  # of each gateway
    await until(lambda: all(one in str(collector.spans) for one in latest))
    found = collector.spans
    calls = [one for one in found if one.kind == SERVER]
    attempts = [one for one in found if one.kind == CLIENT]
    events = [event for one in calls for event in one.events]
    assert {name for one in calls for name in told(one)} == manual("attribute of a call")
    assert {name for one in attempts for name in told(one)} == manual("attribute of an attempt")
    said = {event.name for event in events} | {name for one in events for name in told(one)}
    assert said == manual("event of a call")
