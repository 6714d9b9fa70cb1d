"""64 items of a minute each, and a realtime call in the middle of them (opt-in: `-m slow`)."""

from pathlib import Path
from time import monotonic

import pytest
from gateway_plugins.batch import Batch
from gateway_plugins.batch.queue.items import COMPLETED
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.records.queued_items import new_item
from support.records.run_items import count, ended, queue
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, model

from gateway.testing import GatewayFor, entry

LOAD, DRAIN, TOKENS = 3.0, 3.0, 30


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_fault_3_9_realtime_call_comes_within_drain_and_load_and_no_item_is_lost(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = [
        model("assistant", "--load-time", str(LOAD)),
        model("bulk", "--load-time", str(LOAD), "--itl", "2"),
    ]
    rules = {**QUICK, "drain_batch": DRAIN, "min_hot": 5}
    runtime = box(tmp_path, *models, rules=rules, runtime={"realtime": "assistant"})
    live = await gateway_for(
        entry(Batch, max_attempts=1, min_concurrent=64), "usage", runtime, workers=()
    )
    fleet = fleet_of(live)
    items = [new_item(model="bulk", max_tokens=TOKENS, ignore_eos=True) for _ in range(64)]
    ids = await queue(live, *items)
    await until(lambda: sum(worker.in_flight for worker in live.gateway.workers.all) == 64)
    began = monotonic()
    body = chat(model="assistant", stream=True)
    async with live.client.stream("POST", CHAT, json=body) as stream:
        assert stream.status_code == 200
        await anext(stream.aiter_lines())
        waited = monotonic() - began
    load = fleet.memory.load_seconds("assistant")
    assert waited < DRAIN + load + 1, (waited, load)
    done = await ended(live, ids, 400)
    assert {(item.state, item.charged) for item in done} == {(COMPLETED, 1)}
    assert {item.attempts for item in done} == {2}
    await live.gateway.storage.flush()
    assert await count(live, "usage_calls", "repeated") == 64
    assert await count(live, "usage_calls", "NOT repeated") == 64 + 1
