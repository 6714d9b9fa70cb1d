"""What a worker gets of an item, and what is stored of its response."""

import json

from gateway_plugins.batch.queue.items import COMPLETED, ERROR
from support.records.queued_items import CHAT, new_item
from support.records.run_items import answer_of, count, ended, queue, quick, run
from support.workers.failing_worker import OK

from gateway.config import ServerLimits
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, ScriptedWorker
from gateway.testing import answer_of as answering

JSON = {"content-type": "application/json"}


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


async def test_the_body_of_an_item_arrives_byte_for_byte(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        item = new_item(unknown={"b": [1.0, 1e2, "é\u2028"]}, stop=None, seed=7)
        await run(live, item)
        [request] = worker.requests
        assert body_of(request) == item.body
        assert b"authorization" not in request.lower()


async def test_an_item_that_asks_for_a_stream_runs_unstreamed(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(quick())
    options = {"include_usage": True}
    streamed = new_item(seed=5, temperature=0, stream=True, stream_options=options)
    plain = new_item(seed=5, temperature=0)
    items = await run(live, streamed, plain)
    assert {item.state for item in items} == {COMPLETED}
    answers = [json.loads(await answer_of(live, item) or b"") for item in items]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["object"] == "chat.completion"
    assert answers[0]["usage"] == answers[1]["usage"]


async def test_the_response_to_an_item_is_that_to_a_live_call(gateway_for: GatewayFor) -> None:
    live = await gateway_for(quick(), "trace_capture", "usage")
    item = new_item(seed=5, temperature=0, logprobs=True, top_logprobs=2)
    answer = (await live.client.post(CHAT, content=item.body, headers=JSON)).json()
    [found] = await run(live, item)
    stored = json.loads(await answer_of(live, found) or b"")
    different = {"id", "created"}
    assert {k: v for k, v in stored.items() if k not in different} == {
        k: v for k, v in answer.items() if k not in different
    }
    assert await count(live, "traces") == 2
    assert await count(live, "usage_calls") == 2


async def test_a_response_larger_than_may_be_stored_ends_the_item_and_is_asked_for_once(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(answering(b'{"choices": [' + b" " * 5_000 + b"]}")) as worker:
        limits = ServerLimits(max_body_bytes=4_000)
        live = await gateway_for(quick(), workers=[worker.url], server_limits=limits)
        [item] = await run(live, new_item())
        assert (item.state, item.status, item.attempts) == (ERROR, None, 1)
        assert item.last_error is not None
        assert item.last_error.code == "response_too_large"
        assert await answer_of(live, item) is None
        assert len(worker.requests) == 1


async def test_engine_priority_is_sent_with_items_and_not_with_live_calls(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(quick(engine_priority=10), workers=[worker.url])
        item = new_item(priority=3)
        await live.client.post(CHAT, content=item.body, headers=JSON)
        await run(live, item)
        realtime, batch = (json.loads(body_of(request)) for request in worker.requests)
        assert (realtime["priority"], batch["priority"]) == (3, 10)


async def test_an_item_whose_stored_body_is_damaged_ends_without_harm_to_others(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(quick())
    live.gateway.workers.all[0].mark("test", "down", "items are damaged first")
    ids = await queue(live, *[new_item() for _ in range(5)])
    damage = "UPDATE batch_bodies SET body = x'02' WHERE number = 2"
    await live.gateway.storage.write(lambda db: db.execute(damage))
    live.gateway.workers.all[0].clear("test")
    items = await ended(live, ids)
    assert [item.state for item in items] == [COMPLETED, ERROR, *[COMPLETED] * 3]
    assert items[1].last_error is not None
    assert items[1].last_error.code == "unreadable"
