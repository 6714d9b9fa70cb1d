"""Calls of a batch, or of another plugin's work: traces of their own that link to the request."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from gateway_plugins.otel.spans.conventions import GenAi
from gateway_plugins.otel.spans.spans import spans_of
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.batch.batches import created, lines, over
from support.batch.files import client_of
from support.otel.collector import Collector, collecting, told
from support.otel.finished import finished_call
from support.plugins.recording_plugin import until

from gateway import NewWork
from gateway.testing import GatewayFor, entry

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
BODY = b'{"model": "sim", "messages": [], "max_tokens": 1}'


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


async def calls(collector: Collector, count: int) -> list[Any]:
    """The spans of so many calls, without those of other requests and of attempts."""
    await until(lambda: len(queued(collector)) >= count)
    return queued(collector)


def queued(collector: Collector) -> list[Any]:
    return [one for one in collector.spans if told(one).get("gateway.source") in ("batch", "eval")]


def linked(spans: Sequence[Any]) -> list[tuple[str, str, int]]:
    links = [link for span in spans for link in span.links]
    return [(link.trace_id.hex(), link.span_id.hex(), link.flags) for link in links]


async def test_lines_of_a_batch_link_to_the_request_that_created_it(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    live = await gateway_for("batch", entry("otel", endpoint=collector.url))
    async with client_of(live) as client:
        batch = await created(client, *lines(2), extra_headers={"traceparent": UNSAMPLED})
        await over(client, batch)
        found = await calls(collector, 2)
        await over(client, await created(client, *lines(1)))
        *_, last = await calls(collector, 3)
    assert linked(found) == [(TRACE, PARENT, 0x300)] * 2
    assert [one.parent_span_id for one in found] == [b"", b""]
    assert len({one.trace_id.hex() for one in (*found, last)} | {TRACE}) == 4
    assert linked([last]) == []


async def test_work_of_another_plugin_links_to_the_request_that_it_names(
    gateway_for: GatewayFor, collector: Collector
) -> None:
    live = await gateway_for("batch", entry("otel", endpoint=collector.url))
    [hook] = live.gateway.hooks("work_queue")
    queue = hook.run(live.gateway)
    path, model = "/v1/chat/completions", "sim"
    one = NewWork(id="a", path=path, model=model, body=BODY, source="eval", traceparent=SAMPLED)
    await queue.submit(None, [one])
    found = await calls(collector, 1)
    assert linked(found) == [(TRACE, PARENT, 0x301)]
    assert found[0].trace_id.hex() != TRACE


@given(st.text(max_size=60))
@example(f"00-{'0' * 32}-{PARENT}-01")
@example(f"00-{TRACE}-{'0' * 16}-01")
@example(f"ff-{TRACE}-{PARENT}-01")
@example(f"00-{TRACE}-{PARENT}-1")
@example(f"00-{TRACE}-{PARENT}-0\u0661")
def test_invalid_parent_is_no_link(value: str) -> None:
    data = spans_of(replace(finished_call(), linked=value), GenAi())[0]
    assert not Span.FromString(data).links
