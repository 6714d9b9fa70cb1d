"""When a worker does not answer: which calls another worker gets, and what their callers hear."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import httpx
import pytest
from msgspec.structs import replace
from support.callers.raw_client import CutShort, RawClient
from support.plugins.recording_plugin import Watcher, until
from support.steady import steady
from support.workers.failing_worker import (
    OK,
    QUEUE_FULL,
    QUICK,
    InOrder,
    assert_idle,
    babbles,
    closes,
    is_silent,
    refusal,
    resets,
    resets_unread,
    unreachable,
)
from support.workers.full_backlog import full_backlog

from gateway.config import Timeouts, Worker
from gateway.testing import (
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    sse,
)

Script = Callable[[ScriptedConnection], Awaitable[None]]

GENERATION = ("POST", "/v1/chat/completions")
HARMLESS = (
    ("POST", "/tokenize"),
    ("POST", "/v1/pooling"),
    ("GET", "/v1/models"),
    ("HEAD", "/v1/models"),
)
RERUN = replace(QUICK, rerun=True)
SHORT = Timeouts(first_byte=0.2)


@pytest.fixture
async def other() -> AsyncIterator[ScriptedWorker]:
    """The worker that is asked second."""
    async with ScriptedWorker(OK) as worker:
        yield worker


def named(*urls: str) -> tuple[Worker, ...]:
    return tuple(Worker(url=url, worker_id=name) for url, name in zip(urls, "abcdef", strict=False))


async def ask(live: Live, method: str = "POST", path: str = GENERATION[1]) -> httpx.Response:
    body = b'{"messages": []}' if method == "POST" else None
    answer = await live.client.request(method, path, content=body)
    assert_idle(live.gateway)
    return answer


def told(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """The status, the worker whose answer it is, and how the attempts went."""
    headers = answer.headers
    return (
        answer.status_code,
        headers.get("x-gateway-worker"),
        headers.get("x-gateway-attempts"),
    )


# a worker that nothing of the call has reached


async def test_failover_replaces_a_worker_that_refuses_connections(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    with unreachable() as url:
        live = await gateway_for(InOrder, workers=named(url, other.url), failover=QUICK)
        for method, path in (GENERATION, *HARMLESS):
            answer = await ask(live, method, path)
            assert told(answer) == (200, "b", "a=upstream_connect_failed, b=200")
            assert told(await ask(live, method, path)) == (200, "b", None), "it is known to be down"
            live.gateway.workers.all[0].clear("probe")


@steady
async def test_failover_replaces_a_worker_after_a_connect_timeout(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    timeouts = Timeouts(connect=0.4)
    with full_backlog() as url:
        live = await gateway_for(InOrder, workers=named(url, other.url), timeouts=timeouts)
        assert told(await ask(live)) == (200, "b", "a=upstream_connect_timeout, b=200")


async def test_failover_tries_at_most_the_configured_number_of_workers(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(refusal(503)) as busy:
        live = await gateway_for(
            InOrder, workers=named(*[busy.url] * 3), failover=replace(QUICK, max_workers=2)
        )
        assert told(await ask(live)) == (503, "b", "a=503, b=503")
    with unreachable() as a, unreachable() as b:
        one = await gateway_for(
            InOrder, workers=named(a, b), failover=replace(QUICK, max_workers=1)
        )
        assert told(await ask(one)) == (502, None, None)


async def test_failover_does_not_count_workers_that_refuse_connections(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    failed = "upstream_connect_failed"
    with unreachable() as a, unreachable() as b, unreachable() as c:
        settings = replace(QUICK, max_workers=2)
        live = await gateway_for(InOrder, workers=named(a, b, c), failover=settings)
        assert told(await ask(live)) == (502, None, f"a={failed}, b={failed}, c={failed}")
        live = await gateway_for(InOrder, workers=named(a, b, c, other.url), failover=settings)
        assert told(await ask(live)) == (200, "d", f"a={failed}, b={failed}, c={failed}, d=200")


async def test_failover_sends_a_long_body_whole_to_the_second_worker(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    body = b"x" * (3 << 20)
    with unreachable() as url:
        live = await gateway_for(InOrder, workers=named(url, other.url))
        answer = await live.client.post("/v1/completions", content=body)
    assert told(answer)[:2] == (200, "b")
    assert other.requests[0].endswith(body)


# a worker that may have run it


UNANSWERED: Mapping[Script, str] = {
    closes: "upstream_closed",
    resets: "upstream_closed",
    resets_unread: "upstream_closed",
    babbles: "upstream_protocol_error",
    is_silent: "upstream_first_byte_timeout",
}


@pytest.mark.parametrize("script", UNANSWERED)
@steady
async def test_failover_does_not_repeat_a_generation_that_may_have_run(
    gateway_for: GatewayFor, other: ScriptedWorker, script: Script
) -> None:
    async with ScriptedWorker(script) as worker:
        live = await gateway_for(
            InOrder, workers=named(worker.url, other.url), timeouts=SHORT, failover=QUICK
        )
        answer = await ask(live)
        assert answer.json()["error"]["code"] == UNANSWERED[script]
        assert told(answer)[1:] == (None, None)
        assert other.requests == []


@pytest.mark.parametrize("script", UNANSWERED)
@steady
async def test_failover_repeats_harmless_requests_on_another_worker(
    gateway_for: GatewayFor, other: ScriptedWorker, script: Script
) -> None:
    async with ScriptedWorker(script) as worker:
        live = await gateway_for(
            InOrder, workers=named(worker.url, other.url), timeouts=SHORT, failover=QUICK
        )
        for method, path in HARMLESS:
            answer = await ask(live, method, path)
            assert told(answer) == (200, "b", f"a={UNANSWERED[script]}, b=200")


@pytest.mark.parametrize("script", UNANSWERED)
@steady
async def test_failover_repeats_a_generation_with_rerun(
    gateway_for: GatewayFor, other: ScriptedWorker, script: Script
) -> None:
    async with ScriptedWorker(script) as worker:
        live = await gateway_for(
            InOrder, workers=named(worker.url, other.url), timeouts=SHORT, failover=RERUN
        )
        assert told(await ask(live)) == (200, "b", f"a={UNANSWERED[script]}, b=200")


async def test_failover_cannot_repeat_a_streamed_body(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(closes) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=RERUN)
        answer = await live.client.post("/v1/completions", content=b"x" * (3 << 20))
        assert told(answer) == (502, None, None)
        assert other.requests == []


# a worker that has begun to answer


BEGUN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_failover_does_not_replace_a_stream_that_has_begun(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    event = sse({"choices": []})

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(BEGUN + b"%x\r\n%b\r\n" % (len(event), event))

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=RERUN)
        async with RawClient(*live.server.address) as client:
            with pytest.raises(CutShort) as caught:
                await client.ask(*GENERATION, body=b"{}")
    assert caught.value.answer.body == event
    assert other.requests == []
    assert_idle(live.gateway)


async def test_failover_does_not_replace_a_response_with_only_its_head(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    """Observers have heard of it, and would hear of two."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(answer_of(b'{"choices": []}')[:-3])

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(
            "support.callers.response_paths:Injecting",
            InOrder,
            workers=named(worker.url, other.url),
            failover=RERUN,
        )
        answer = await ask(live)
    assert told(answer) == (502, None, None)
    assert answer.json()["error"]["code"] == "upstream_closed"
    assert other.requests == []


# a worker that says no


@pytest.mark.parametrize("status", [502, 503, 504, 429])
async def test_failover_skips_a_worker_that_rejects_the_call(
    gateway_for: GatewayFor, other: ScriptedWorker, status: int
) -> None:
    async with ScriptedWorker(refusal(status)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        for method, path in (GENERATION, ("POST", "/tokenize"), ("GET", "/v1/models")):
            answer = await ask(live, method, path)
            assert told(answer) == (200, "b", f"a={status}, b=200")
            assert answer.json() == {"ok": True}
        assert [len(worker.requests), len(other.requests)] == [3, 3]


async def test_failover_repeats_a_rejected_head_request(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    head = b"HTTP/1.1 503 No\r\ncontent-length: 17\r\n\r\n"
    async with ScriptedWorker(head) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        assert told(await ask(live, "HEAD", "/v1/models")) == (200, "b", "a=503, b=200")
        alone = await gateway_for(workers=named(worker.url), failover=QUICK)
        answer = await ask(alone, "HEAD", "/v1/models")
        assert (told(answer), answer.headers["content-length"]) == ((503, "a", None), "17")


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_failover_forwards_any_other_error_status(
    gateway_for: GatewayFor, other: ScriptedWorker, status: int
) -> None:
    async with ScriptedWorker(refusal(status)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=RERUN)
        assert told(await ask(live)) == (status, "a", None)


async def test_failover_forwards_the_last_rejection_unchanged(gateway_for: GatewayFor) -> None:
    last = refusal(503, "retry-after: 7", "x-own: yes", "content-type: text/plain", body=b"full")
    async with ScriptedWorker(refusal(502)) as one, ScriptedWorker(last) as two:
        live = await gateway_for(InOrder, workers=named(one.url, two.url), failover=QUICK)
        answer = await ask(live)
    assert told(answer) == (503, "b", "a=502, b=503")
    assert (answer.text, answer.headers["content-type"]) == ("full", "text/plain")
    assert (answer.headers["retry-after"], answer.headers["x-own"]) == ("7", "yes")


async def test_failover_forwards_a_held_rejection_if_no_worker_is_left(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    """The answer was held back for another worker, which went away meanwhile."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        live.gateway.workers.remove("b")
        await connection.write(refusal(503, "retry-after: 7"))

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        answer = await ask(live)
    assert told(answer) == (503, "a", None)
    assert answer.headers["retry-after"] == "7"
    assert answer.content == QUEUE_FULL


async def test_failover_stops_at_a_429_from_the_second_worker(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(503)) as one, ScriptedWorker(refusal(429)) as two:
        workers = named(one.url, two.url, other.url)
        live = await gateway_for(InOrder, workers=workers, failover=QUICK)
        assert told(await ask(live)) == (429, "b", "a=503, b=429")
    assert other.requests == []


async def test_failover_forwards_a_long_rejection(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    long = b"x" * 70_000
    async with ScriptedWorker(refusal(503, body=long)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        answer = await ask(live)
    assert told(answer) == (503, "a", None)
    assert answer.content == long


async def test_failover_forwards_a_streamed_rejection(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    said = answer_of(sse("no"), status="503 No", content_type="text/event-stream")
    async with ScriptedWorker(said) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        answer = await ask(live)
    assert (told(answer), answer.content) == ((503, "a", None), sse("no"))


async def test_failover_forwards_the_rejection_of_a_streamed_body(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(503)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        answer = await live.client.post("/v1/completions", content=b"x" * (3 << 20))
    assert told(answer) == (503, "a", None)


async def test_failover_does_not_repeat_after_a_truncated_rejection(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(refusal(503)[:-3])

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        assert told(await ask(live)) == (502, None, None)


async def test_failover_repeats_only_configured_statuses(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(400)) as one, ScriptedWorker(refusal(503)) as two:
        settings = replace(QUICK, statuses=(400,))
        live = await gateway_for(
            "support.callers.response_paths:Injecting",
            InOrder,
            workers=named(one.url, other.url),
            failover=settings,
        )
        assert told(await ask(live)) == (200, "b", "a=400, b=200")
        live = await gateway_for(
            "support.callers.response_paths:Injecting",
            InOrder,
            workers=named(one.url, one.url),
            failover=settings,
        )
        assert told(await ask(live)) == (400, "b", "a=400, b=400")
        live = await gateway_for(workers=named(two.url, other.url), failover=settings)
        assert 503 in [(await ask(live)).status_code for _ in range(2)]


async def test_failover_tries_only_workers_with_the_model(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(503)) as one:
        workers = (
            Worker(url=one.url, worker_id="a", models=("m",)),
            Worker(url=other.url, worker_id="b", models=("n",)),
        )
        live = await gateway_for(workers=workers, failover=replace(QUICK, backoff=1000.0))
        answer = await live.client.post(GENERATION[1], json={"model": "m"})
    assert told(answer) == (503, "a", None)
    assert other.requests == []


# where it ends


async def test_failover_stops_at_its_deadline(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(503)) as worker:
        workers = named(worker.url, other.url)
        live = await gateway_for(InOrder, workers=workers, failover=replace(QUICK, deadline=1e-9))
        assert told(await ask(live)) == (503, "a", None)
        late = replace(QUICK, backoff=1000.0, deadline=2.0)  # the wait alone would be longer
        live = await gateway_for(InOrder, workers=workers, failover=late)
        assert told(await ask(live)) == (503, "a", None)
        live = await gateway_for(InOrder, workers=workers, failover=replace(QUICK, deadline=None))
        assert told(await ask(live)) == (200, "b", "a=503, b=200")


async def test_caller_disconnect_during_backoff_ends_the_call(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(503)) as worker:
        slow = replace(QUICK, backoff=1000.0)
        live = await gateway_for(
            InOrder, Watcher, workers=named(worker.url, other.url), failover=slow
        )
        watcher = live.plugin(Watcher)
        asking = asyncio.create_task(ask(live))
        await until(lambda: bool(watcher.attempts))
        asking.cancel()
        outcome = await watcher.outcome()
    assert outcome.caller_gone
    assert other.connections == []
    assert_idle(live.gateway)
