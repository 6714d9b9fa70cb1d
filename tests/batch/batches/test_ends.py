"""Batches that are cancelled or come too late: what was done is delivered, the rest as errors."""

import asyncio
import time

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch
from support.batch.batches import body, created, ids, line, lines, mistakes, over, results
from support.batch.files import client_of
from support.plugins.recording_plugin import until
from support.records.run_items import count, quick
from support.steady import steady
from support.workers.failing_on_demand import Moody

from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of

ALL = [f"id {number}" for number in range(40)]


async def too_late(live: Live, batch: Batch) -> None:
    """Let the deadline of a batch be now, without waiting an hour for it."""
    named = {"id": batch.id, "now": time.time()}

    def run(db):  # type: ignore[no-untyped-def]
        db.execute("UPDATE batches SET deadline = :now WHERE id = :id", named)
        where = "batch = (SELECT number FROM batches WHERE id = :id)"
        db.execute(f"UPDATE batch_items SET deadline = :now WHERE {where}", named)

    await live.gateway.storage.write(run)


async def once_some_are_done(client: AsyncOpenAI, worker: Moody, batch: Batch) -> Batch:
    """Wait until items have completed, and others are held by the worker."""
    await until(lambda: worker.held > 0)
    counts = batch.request_counts
    async with asyncio.timeout(20):
        while counts is None or not counts.completed:
            await asyncio.sleep(0.02)
            batch = await client.batches.retrieve(batch.id)
            counts = batch.request_counts
    return batch


async def nothing_waits(live: Live, within: float) -> None:
    """Wait until no item is queued. Raises TimeoutError if that takes longer than `within` s."""
    async with asyncio.timeout(within):
        while await count(live, "batch_items", "state = 0"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def first_are_quick() -> Moody:
    """A worker that answers the requests of five lines, and holds all others."""
    worker = Moody()
    worker.holds = b'"slow"'
    worker.gate.clear()
    return worker


def mixed() -> list[bytes]:
    return [*lines(5), *(line(ALL[n], body(n, user="slow")) for n in range(5, 40))]


async def test_cancelled_batch_delivers_what_was_done_and_the_rest_as_errors(
    gateway_for: GatewayFor,
) -> None:
    async with first_are_quick() as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        async with client_of(live) as client:
            batch = await once_some_are_done(client, worker, await created(client, *mixed()))
            begun = time.monotonic()
            cancelled = await client.batches.cancel(batch.id)
            assert (cancelled.status, cancelled.cancelled_at) == ("cancelling", None)
            assert cancelled.cancelling_at is not None
            batch = await over(client, cancelled)
            assert time.monotonic() - begun < 30
            await until(lambda: not live.gateway.calls_in_flight)
            good, bad = await results(client, batch)
            assert (await client.batches.cancel(batch.id)).status == "cancelled"
    assert (batch.status, batch.completed_at) == ("cancelled", None)
    assert batch.cancelled_at is not None
    assert sorted(ids(good) + ids(bad)) == sorted(ALL)
    assert set(ids(good)) <= set(ALL[:5])
    assert {one["error"]["code"] for one in bad} == {"batch_cancelled"}
    assert {one["response"] for one in bad} == {None}
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {
        "total": 40,
        "completed": len(good),
        "failed": len(bad),
    }


async def test_batch_that_is_cancelled_at_once_has_an_error_line_for_each_request(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch", workers=[])
    async with client_of(live) as client:
        batch = await client.batches.cancel((await created(client, *lines(300))).id)
        batch = await over(client, batch)
        good, bad = await results(client, batch)
    assert (batch.status, good) == ("cancelled", [])
    assert ids(bad) == [f"id {number}" for number in range(300)]


async def test_invalid_file_of_a_cancelled_batch_is_told(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    async with client_of(live) as client:
        batch = await client.batches.cancel((await created(client, b"{\n" * 3)).id)
        batch = await over(client, batch)
    assert batch.status == "cancelled"
    assert [line for _, line, _ in mistakes(batch)] == [1, 2, 3]


async def test_cancel_has_no_body_and_no_other_method(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=[])
    json_type = {"content-type": "application/json"}
    async with client_of(live) as client:
        batch = await created(client, *lines(1))
        url = f"/v1/batches/{batch.id}"
        answer = await live.client.get(f"{url}/cancel")
        assert answer.status_code == 405
        answer = await live.client.post(f"{url}/cancel", headers=json_type, content=b"")
        assert answer.json()["status"] in ("cancelling", "cancelled")
        other = await created(client, *lines(1))
        answer = await live.client.request("DELETE", f"/v1/batches/{other.id}", headers=json_type)
        assert answer.json()["status"] in ("cancelling", "cancelled")


async def test_batch_that_has_ended_cannot_be_cancelled(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        for text, status in ((b"{", "failed"), (lines(1)[0], "completed")):
            batch = await over(client, await created(client, text))
            with pytest.raises(openai.ConflictError, match=status):
                await client.batches.cancel(batch.id)
        with pytest.raises(openai.NotFoundError):
            await client.batches.cancel("batch_unknown")


@steady
async def test_fault_4_7_deadline_ends_a_batch_within_5_s_and_delivers_what_was_done(
    gateway_for: GatewayFor,
) -> None:
    async with first_are_quick() as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        async with client_of(live) as client:
            batch = await once_some_are_done(client, worker, await created(client, *mixed()))
            await too_late(live, batch)
            running = await count(live, "batch_items", "state = 1")
            await nothing_waits(live, within=5)
            worker.gate.set()
            batch = await over(client, batch)
            good, bad = await results(client, batch)
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert batch.completed_at is batch.cancelled_at is None
    assert sorted(ids(good) + ids(bad)) == sorted(ALL)
    assert len(good) <= 5 + running
    assert {one["error"]["code"] for one in bad} == {"batch_expired"}
    assert [one["response"] for one in bad] == [None] * len(bad)


@steady
async def test_call_of_a_line_ends_at_the_deadline_of_its_batch(gateway_for: GatewayFor) -> None:
    """The deadline is set before the items are queued, and is a second away when they run."""
    async with first_are_quick() as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        live.gateway.workers.all[0].mark("test", "down", "the deadline is set first")
        async with client_of(live) as client:
            batch = await created(client, line("a", body(1, user="slow")))
            batch = await over(client, batch, "in_progress")
            named = {"then": time.time() + 1.0}
            statement = "UPDATE batch_items SET deadline = :then"
            await live.gateway.storage.write(lambda db: db.execute(statement, named))
            live.gateway.workers.all[0].clear("test")
            await until(lambda: worker.held > 0)
            begun = time.monotonic()
            batch = await over(client, batch)
            assert time.monotonic() - begun < 5
            await until(lambda: not live.gateway.calls_in_flight)
            _, [failed] = await results(client, batch)
    assert (batch.status, failed["error"]["code"]) == ("expired", "batch_expired")


async def test_batch_whose_lines_all_end_in_time_completes(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        batch = await over(client, await created(client, *lines(2), completion_window="1h"))
    assert (batch.status, batch.expired_at) == ("completed", None)


async def test_line_that_a_worker_takes_too_long_for_is_a_timeout(gateway_for: GatewayFor) -> None:
    async with first_are_quick() as worker:
        live = await gateway_for(
            quick(max_attempts=1), workers=[worker.url], timeouts={"first_byte": 0.1}
        )
        async with client_of(live) as client:
            batch = await created(client, line("a", body(1, user="slow")))
            _, [failed] = await results(client, await over(client, batch))
    assert (failed["response"], failed["error"]["code"]) == (None, "request_timeout")


async def test_response_that_is_no_json_is_delivered_as_text(gateway_for: GatewayFor) -> None:
    async def script(connection: ScriptedConnection) -> None:
        for text in (b"plain \xe2\x80\xa8 text", b"\xff\xfe", b'{\n "a": "\xe2\x80\xa8"\n}'):
            await connection.read_request()
            await connection.write(answer_of(text))

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(quick(min_concurrent=1, max_concurrent=1), workers=[worker.url])
        async with client_of(live) as client:
            good = []
            for number in range(3):
                batch = await over(client, await created(client, line("a", body(number))))
                content = await client.files.content(batch.output_file_id or "")
                assert len(content.text.splitlines()) == 1
                good += (await results(client, batch))[0]
    bodies = [one["response"]["body"] for one in good]
    assert bodies == ["plain \u2028 text", "//4=", {"a": "\u2028"}]
