"""What the queue reports to /metrics: the faults of section 8 of the contract, by their numbers."""

import asyncio
import re
from collections.abc import Callable
from contextlib import closing

import pytest
from gateway_plugins.batch import depth
from gateway_plugins.batch.queue import changes, reading
from gateway_plugins.batch.queue.schema import MIGRATIONS
from gateway_plugins.batch.report import DURATIONS, MAX_SERIES, OTHER, Tally
from support.callers.scraping import Scrape, scrape
from support.gateways.capturing import chat
from support.records.databases import memory_database
from support.records.queued_items import CHAT, OWNER, engine_of, new_item
from support.workers.failing_worker import refusal
from support.workers.patient_worker import ANSWER, patient

from gateway import Histogram, Outcome
from gateway.config import Worker
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of, entry


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "LOOK", 0.01)


async def scrape_until(live: Live, wanted: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until the answer is as wanted, as a dashboard would."""
    async with asyncio.timeout(30):
        while not wanted(found := await scrape(live)):
            pass
    return found


async def test_fault_8_1_request_durations_are_observed(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", "metrics")
    assert (await live.client.post(CHAT, json=chat())).status_code == 200
    assert (await live.client.post("/v1/of/my/own", json={})).status_code == 404
    found = await scrape(live)
    name = "llm_request_duration_seconds"
    assert found.value(f"{name}_count", endpoint=CHAT, status="200") == 1
    assert found.value(f"{name}_sum", endpoint=CHAT, status="200") > 0
    assert found.value(f"{name}_count", endpoint=OTHER, status="404") == 1


async def test_request_durations_leave_out_calls_for_items(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", "metrics")
    engine = engine_of(live)
    item_id = await engine.submit(OWNER, [new_item()])
    await engine.wait(item_id, "ada", 5)
    assert (await scrape(live)).value("llm_request_duration_seconds_count") == 0


def test_fault_8_2_a_request_of_ten_minutes_has_a_bucket_of_its_own() -> None:
    assert (DURATIONS[0], DURATIONS[-1]) == (0.005, 600.0)
    tally = Tally()
    for seconds in (0.004, 11.0, 599.0):
        tally.called(CHAT, Outcome(status=200, duration=seconds))
    [histogram] = [one.value for one in tally.samples() if isinstance(one.value, Histogram)]
    counts = histogram.counts
    assert (counts[0], counts[DURATIONS.index(30.0)], counts[-2], counts[-1]) == (1, 1, 1, 0)


async def test_fault_8_3_depth_counts_claimed_items_and_follows_the_work(
    gateway_for: GatewayFor,
) -> None:
    allowed = asyncio.Semaphore(0)

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await allowed.acquire()
            await connection.write(answer_of(ANSWER))

    async with ScriptedWorker(script) as worker:
        batch = entry("batch", max_concurrent=2)
        live = await gateway_for(batch, "metrics", workers=(worker.url,))
        await engine_of(live).submit(OWNER, [new_item() for _ in range(20)])
        found = await scrape_until(
            live, lambda found: found.value("gateway_batch_depth", state="running") > 0
        )
        running = found.value("gateway_batch_depth", state="running")
        assert found.value("gateway_batch_depth", state="queued") == 20 - running
        assert found.value("llm_queue_depth", type="batch") == 20
        assert found.value("gateway_batch_oldest_wait_seconds") > 0
        for _ in range(5):
            allowed.release()
        await scrape_until(live, lambda found: found.value("llm_queue_depth") == 15)
        for _ in range(15):
            allowed.release()
        await scrape_until(live, lambda found: found.value("llm_queue_depth") == 0)


@pytest.mark.parametrize("query", [reading._OLDEST, reading._COUNTS])
def test_depth_is_read_without_a_scan_of_items(query: str) -> None:
    with closing(memory_database([MIGRATIONS])) as db:
        plan = [row[-1] for row in db.select(f"EXPLAIN QUERY PLAN {query}")]
    assert not [step for step in plan if re.match("SCAN (i|batch_items)\\b", step)]


async def test_fault_8_6_models_that_callers_made_up_are_no_labels(gateway_for: GatewayFor) -> None:
    async with patient() as worker:
        workers = [Worker(url=worker.url, models=("llama",))]
        live = await gateway_for("batch", "metrics", workers=workers)
        items = [new_item(model=name) for name in ("llama", *(f"made-up-{n}" for n in range(100)))]
        await engine_of(live).submit(OWNER, items)
        found = await scrape_until(live, lambda found: found.value("llm_queue_depth") == 101)
    assert found.value("gateway_batch_depth", model="llama") == 1
    assert found.value("gateway_batch_depth", model=OTHER) == 100
    assert found.values_of("model") <= {"llama", OTHER}


async def test_models_beyond_the_most_become_other(gateway_for: GatewayFor) -> None:
    names = tuple(f"model-{number}" for number in range(100))
    workers = [Worker(url="http://127.0.0.1:9", models=names)]
    live = await gateway_for("batch", "metrics", workers=workers)
    found = await scrape(live)
    assert len(found.values_of("model")) == depth.MAX_MODELS + 1


async def test_fault_8_7_metrics_name_the_version_of_their_format(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", "metrics")
    answer = await live.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'llm_queue_depth{type="batch"} 0.0' in answer.text


async def test_ended_items_count_by_status_and_type(gateway_for: GatewayFor) -> None:
    refusing = refusal(400, body=b'{"error": {"message": "no"}}')
    async with ScriptedWorker(refusing) as strict:
        live = await gateway_for("batch", "metrics", workers=(strict.url,))
        engine = engine_of(live)
        item_id = await engine.submit(OWNER, [new_item(path="/v1/completions")])
        await engine.wait(item_id, "ada", 5)
        late = await engine.submit(OWNER, [new_item(deadline=-1.0)])
        await engine.wait(late, "ada", 5)
        found = await scrape(live)
    for name in ("llm_jobs_total", "gateway_batch_items_total"):
        assert found.value(name, status="error", type="completion") == 1
        assert found.value(name, status="expired", type="chat_completion") == 1
        assert found.value(name) == 2


async def test_canceled_items_count_as_such(gateway_for: GatewayFor) -> None:
    async with patient() as worker:
        live = await gateway_for("batch", "metrics", workers=(worker.url,))
        engine = engine_of(live)
        assert await engine.cancel(await engine.submit(OWNER, [new_item()]))
        found = await scrape(live)
    assert found.value("llm_jobs_total", status="canceled", type="chat_completion") == 1
    assert found.value("llm_jobs_total") == 1


async def test_what_an_item_samples_after_it_was_canceled_is_wasted(
    gateway_for: GatewayFor,
) -> None:
    async with patient() as worker:
        live = await gateway_for("batch", "metrics", workers=(worker.url,))
        item_id = await engine_of(live).submit(OWNER, [new_item()])
        await worker.asked.wait()
        end = changes.End(0.0, 1e12)  # as another process does
        await live.gateway.storage.write(lambda db: changes.cancel(db, item_id, end))
        worker.free.set()
        found = await scrape_until(live, lambda found: found.value("llm_wasted_tokens_total") > 0)
    assert found.value("gateway_batch_wasted_tokens_total", reason="dropped") == 5


async def test_requeued_items_count_by_the_status_before(gateway_for: GatewayFor) -> None:
    answers = iter([refusal(503), answer_of(ANSWER)])

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.write(next(answers))

    async with ScriptedWorker(script) as worker:
        batch = entry("batch", min_pause=0.001)
        live = await gateway_for(batch, "metrics", workers=(worker.url,))
        engine = engine_of(live)
        item_id = await engine.submit(OWNER, [new_item()])
        await engine.wait(item_id, "ada", 5)
        found = await scrape(live)
    assert found.value("llm_jobs_requeued_total", reason="503") == 1
    assert found.value("gateway_batch_items_requeued_total") == 1
    assert found.value("llm_jobs_total", status="completed") == 1


def test_endpoints_and_statuses_are_bounded() -> None:
    tally = Tally()
    for status in range(MAX_SERIES + 500):
        tally.called(f"/v1/{status}", Outcome(status=status, duration=1.0))
    series = [one for one in tally.samples() if one.kind == "histogram"]
    assert len(series) == MAX_SERIES + 1
    assert {one.labels["endpoint"] for one in series} == {OTHER}
