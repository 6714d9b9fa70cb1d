"""A trace says which distributed trace its call was part of."""

import pytest
from support.gateways.capturing import CAPTURE, chat
from support.plugins.samplers import Sampler

from gateway import TraceSpan
from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor

TRACE, PARENT = "ab" * 16, "cd" * 8


@pytest.mark.parametrize("records", ["", "yes"])
@pytest.mark.parametrize("given", [f"00-{TRACE}-{PARENT}-01", "00-broken"])
async def test_trace_has_the_span_of_its_call(
    gateway_for: GatewayFor, records: str, given: str
) -> None:
    live = await gateway_for("sessions", CAPTURE, Sampler)
    headers = {"traceparent": given, "x-records": records}
    await live.client.post("/v1/chat/completions", json=chat(), headers=headers)
    [context] = live.plugin(Sampler).contexts
    async with AsyncGatewayClient(live.url) as client:
        [trace] = await client.query_traces()
    if context.parent_id is not None:
        own = context.span_id if records else PARENT
        assert trace.span == TraceSpan(TRACE, own, PARENT)
    elif records:
        assert trace.span == TraceSpan(trace.trace_id, context.span_id)
    else:
        assert trace.span is None


async def test_trace_without_a_span_is_read_as_before(gateway_for: GatewayFor) -> None:
    live = await gateway_for("sessions", CAPTURE)
    await live.client.post("/v1/chat/completions", json=chat())
    async with AsyncGatewayClient(live.url) as client:
        [trace] = await client.query_traces()
    assert trace.span is None
