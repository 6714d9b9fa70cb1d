"""A plugin that records the spans of a share of the calls: what workers and its own hooks get."""

from pathlib import Path

import pytest
from support.gateways.reloadable import reloadable
from support.plugins.samplers import Contexts, Sampler, Share, Shifting, header_of

from gateway import ConfigError, Gateway
from gateway.config import Config, PluginEntry
from gateway.testing import GatewayFor, Live, ScriptedWorker, answer_of, entry

GIVEN = f"00-{'ab' * 16}-{'cd' * 8}"
HOOKS = ["observe", "attempt_finished", "call_finished"]


async def ask(live: Live, **headers: str) -> str:
    """Make a call, and return its id."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await live.client.post("/v1/chat/completions", json={"model": "sim"}, headers=names)
    assert response.status_code == 200
    return response.headers["x-request-id"]


async def test_trace_ratio_leaves_the_plugin_out_of_calls_that_are_not_recorded(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(share(0), Contexts, workers=[worker.url])
        began = await ask(live)
        await ask(live, traceparent=f"{GIVEN}-00")
        recorded = await ask(live, traceparent=f"{GIVEN}-01", tracestate="a=1")
    sent = [header_of(request, b"traceparent") for request in worker.requests]
    contexts = live.plugin(Contexts).contexts
    assert sent[0] == f"00-{began}-{began[16:]}-02", "a parent that is not sampled, of a new trace"
    assert sent[1] == f"{GIVEN}-00", "neither the caller nor the gateway records"
    assert (sent[2] or "").startswith(f"00-{'ab' * 16}-")
    assert (sent[2] or "").endswith("-01")
    assert [(one.trace_id, one.span_id, one.sampled) for one in contexts if one is not None] == [
        (began, began[16:], False),
        ("ab" * 16, "cd" * 8, False),
        ("ab" * 16, contexts[2] and contexts[2].span_id, True),
    ]
    assert live.plugin(Share).seen == [(name, recorded) for name in HOOKS]


def share(ratio: object) -> PluginEntry:
    return entry("support.plugins.samplers:Share", ratio=ratio)


async def test_trace_ratio_of_1_records_each_call_that_begins_a_trace(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(share(1), workers=[worker.url])
        called = await ask(live)
        await ask(live, traceparent=f"{GIVEN}-00")
    assert live.plugin(Share).seen == [(name, called) for name in HOOKS]
    assert (header_of(worker.requests[0], b"traceparent") or "").endswith("-03")


async def test_state_without_a_parent_is_not_passed_on_with_a_new_parent(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(share(0), workers=[worker.url])
        called = await ask(live, tracestate="a=1", baggage="b=2")
        await ask(live, traceparent="invalid", tracestate="a=1")
    first, second = worker.requests
    assert header_of(first, b"traceparent") == f"00-{called}-{called[16:]}-02"
    assert (header_of(first, b"tracestate"), header_of(first, b"baggage")) == (None, "b=2")
    assert (header_of(second, b"traceparent") or "").endswith("-02")
    assert header_of(second, b"tracestate") is None


async def test_id_of_the_caller_is_not_the_id_of_the_trace(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(share(0), workers=[worker.url])
        assert await ask(live, x_request_id="mine") == "mine"
        assert await ask(live, x_request_id="not valid") != "not valid"
    for request in worker.requests:
        trace_id = (header_of(request, b"traceparent") or "").split("-")[1]
        assert trace_id not in (header_of(request, b"x-request-id"), "mine")


async def test_sample_trace_of_another_plugin_adds_calls(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(share(0), Sampler, workers=[worker.url])
        await ask(live, x_records="yes")
        await ask(live, x_records="")
    flags = [(header_of(request, b"traceparent") or "")[-2:] for request in worker.requests]
    assert flags == ["03", "02"]
    assert len(live.plugin(Share).seen) == 6, "only `sample_trace` can say, and it comes later"


async def test_reload_asks_for_the_ratio_after_the_plugin_has_taken_its_options(
    tmp_path: Path,
) -> None:
    def of(ratio: float) -> tuple[str, dict[str, float]]:
        return "support.plugins.samplers:Shifting", {"ratio": ratio}

    async with ScriptedWorker(answer_of(b"{}")) as worker:
        fields = {"workers": [worker.url]}
        async with reloadable(tmp_path / "gateway.yaml", of(0), **fields) as running:
            kept = running.live.plugin(Shifting)
            await ask(running.live)
            await running.changed(of(0.9999999), **fields)
            calls = [await ask(running.live)]
            assert "trace_ratio" in await running.refused(of(1), **fields)
            calls.append(await ask(running.live))  # all is as before
            assert running.live.plugin(Shifting) is kept
    assert kept.seen == [(name, called) for called in calls for name in HOOKS]


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), True, "half"])
def test_trace_ratio_that_is_no_share_ends_the_start(ratio: object) -> None:
    with pytest.raises(ConfigError, match="ratio"):
        Gateway(Config(plugins=(share(ratio),)))
