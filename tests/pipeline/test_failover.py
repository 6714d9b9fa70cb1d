"""When a worker does not answer: which calls another worker gets, and what their callers hear."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import httpx
import pytest
from msgspec.structs import replace
from support.callers.raw_client import CutShort, RawClient
from support.plugins.recording_plugin import Watcher, until
from support.workers.failing_worker import (
    OK,
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


async def test_one_that_refuses_connections_is_replaced(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    with unreachable() as url:
        live = await gateway_for(InOrder, workers=named(url, other.url), failover=QUICK)
        for method, path in (GENERATION, *HARMLESS):
            answer = await ask(live, method, path)
            assert told(answer) == (200, "b", "a=upstream_connect_failed, b=200")


async def test_one_that_takes_no_connection_in_time_is_replaced(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    timeouts = Timeouts(connect=0.4)
    with full_backlog() as url:
        live = await gateway_for(InOrder, workers=named(url, other.url), timeouts=timeouts)
        assert told(await ask(live)) == (200, "b", "a=upstream_connect_timeout, b=200")


async def test_no_more_are_asked_than_the_configuration_says(gateway_for: GatewayFor) -> None:
    with unreachable() as a, unreachable() as b, unreachable() as c:
        live = await gateway_for(
            InOrder, workers=named(a, b, c), failover=replace(QUICK, max_workers=2)
        )
        failed = "upstream_connect_failed"
        assert told(await ask(live)) == (502, None, f"a={failed}, b={failed}")
        one = await gateway_for(
            InOrder, workers=named(a, b), failover=replace(QUICK, max_workers=1)
        )
        assert told(await ask(one)) == (502, None, None)


async def test_a_long_body_is_sent_whole_to_the_second(
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
async def test_a_generation_that_may_have_run_is_not_run_again(
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
async def test_what_is_harmless_is_asked_of_another(
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
async def test_with_rerun_a_generation_is_run_again(
    gateway_for: GatewayFor, other: ScriptedWorker, script: Script
) -> None:
    async with ScriptedWorker(script) as worker:
        live = await gateway_for(
            InOrder, workers=named(worker.url, other.url), timeouts=SHORT, failover=RERUN
        )
        assert told(await ask(live)) == (200, "b", f"a={UNANSWERED[script]}, b=200")


async def test_what_was_passed_on_as_it_came_cannot_be_run_again(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(closes) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=RERUN)
        answer = await live.client.post("/v1/completions", content=b"x" * (3 << 20))
        assert told(answer) == (502, None, None)
        assert other.requests == []


# a worker that has begun to answer


BEGUN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_a_stream_that_has_begun_is_broken_off(
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
    assert caught.value.answer.body.startswith(event + b"event: error\n")
    assert other.requests == []
    assert_idle(live.gateway)


async def test_an_answer_of_which_only_the_head_came_is_not_replaced(
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
async def test_a_worker_that_says_no_is_passed_by(
    gateway_for: GatewayFor, other: ScriptedWorker, status: int
) -> None:
    async with ScriptedWorker(refusal(status)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        for method, path in (GENERATION, ("POST", "/tokenize"), ("GET", "/v1/models")):
            answer = await ask(live, method, path)
            assert told(answer) == (200, "b", f"a={status}, b=200")
            assert answer.json() == {"ok": True}
        assert [len(worker.requests), len(other.requests)] == [3, 3]


async def test_the_head_of_an_answer_is_refused_too(
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
async def test_any_other_status_is_an_answer(
    gateway_for: GatewayFor, other: ScriptedWorker, status: int
) -> None:
    async with ScriptedWorker(refusal(status)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=RERUN)
        assert told(await ask(live)) == (status, "a", None)


async def test_where_all_say_no_the_last_is_heard_as_it_is(gateway_for: GatewayFor) -> None:
    last = refusal(503, "retry-after: 7", "x-own: yes", "content-type: text/plain", body=b"full")
    async with ScriptedWorker(refusal(502)) as one, ScriptedWorker(last) as two:
        live = await gateway_for(InOrder, workers=named(one.url, two.url), failover=QUICK)
        answer = await ask(live)
    assert told(answer) == (503, "b", "a=502, b=503")
    assert (answer.text, answer.headers["content-type"]) == ("full", "text/plain")
    assert (answer.headers["retry-after"], answer.headers["x-own"]) == ("7", "yes")


async def test_one_that_was_held_is_heard_whole_where_the_others_are_gone(
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
    assert answer.json() == {"error": "busy"}


async def test_a_second_worker_that_is_busy_has_the_last_word(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(503)) as one, ScriptedWorker(refusal(429)) as two:
        workers = named(one.url, two.url, other.url)
        live = await gateway_for(InOrder, workers=workers, failover=QUICK)
        assert told(await ask(live)) == (429, "b", "a=503, b=429")
    assert other.requests == []


async def test_a_long_refusal_is_passed_on(gateway_for: GatewayFor, other: ScriptedWorker) -> None:
    long = b"x" * 70_000
    async with ScriptedWorker(refusal(503, body=long)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        answer = await ask(live)
    assert told(answer) == (503, "a", None)
    assert answer.content == long


async def test_a_refusal_that_streams_is_passed_on(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    said = answer_of(sse("no"), status="503 No", content_type="text/event-stream")
    async with ScriptedWorker(said) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        answer = await ask(live)
    assert (told(answer), answer.content) == ((503, "a", None), sse("no"))


async def test_a_refusal_of_a_body_that_was_passed_on_as_it_came_is_an_answer(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async with ScriptedWorker(refusal(503)) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        answer = await live.client.post("/v1/completions", content=b"x" * (3 << 20))
    assert told(answer) == (503, "a", None)


async def test_a_refusal_that_breaks_off_is_no_refusal(
    gateway_for: GatewayFor, other: ScriptedWorker
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(refusal(503)[:-3])

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(InOrder, workers=named(worker.url, other.url), failover=QUICK)
        assert told(await ask(live)) == (502, None, None)


async def test_the_statuses_are_those_of_the_configuration(
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


async def test_only_those_that_serve_the_model_are_asked(
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


async def test_a_call_is_too_old_for_another_worker(
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


async def test_a_caller_that_leaves_while_the_gateway_waits_ends_the_call(
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
