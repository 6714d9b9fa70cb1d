"""Items count for the limits of their key, as its other calls do; what is refused waits."""

import msgspec
from gateway_plugins.batch.queue.items import COMPLETED
from support.callers.scraping import scrape
from support.records.queued_items import OWNER, engine_of, new_item

from gateway.testing import GatewayFor, entry


async def test_items_wait_while_their_key_has_reached_a_limit(gateway_for: GatewayFor) -> None:
    limits = entry("limits", keys={"ada": {"requests_per_minute": 600, "burst_requests": 1}})
    batch = entry("batch", min_pause=0.001, max_attempts=1)
    live = await gateway_for(limits, batch, "metrics")
    engine = engine_of(live)
    items = [new_item() for _ in range(3)]
    await engine.submit(OWNER, items)
    for item in items:
        done = await engine.wait(item.id, "ada", 10)
        assert done is not None
        assert done.state == COMPLETED
    found = await scrape(live)
    assert found.value("gateway_batch_items_requeued_total", reason="requests_per_minute") >= 1


async def test_items_of_nobody_are_not_limited(gateway_for: GatewayFor) -> None:
    limits = entry("limits", default={"requests_per_minute": 1})
    live = await gateway_for(limits, "batch", "metrics")
    engine = engine_of(live)
    items = [new_item() for _ in range(3)]
    await engine.submit(msgspec.structs.replace(OWNER, principal=None), items)
    for item in items:
        assert await engine.wait(item.id, "", 5) is not None
    assert (await scrape(live)).value("llm_jobs_total", status="completed") == 3
