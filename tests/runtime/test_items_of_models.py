"""Items of the queue whose model is there late, never, or no more."""

from pathlib import Path

import pytest
from gateway_plugins.batch.queue.items import COMPLETED, ERROR, QUEUED
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.records.queued_items import new_item
from support.records.run_items import ended, item_of, queue, quick
from support.runtime.boxes import QUICK, box, fleet_of, starts
from support.runtime.tiny_engines import tiny

from gateway.testing import GatewayFor

BROKEN = ["/bin/sh", "-c", "echo no weights in sight; exit 1"]


@pytest.mark.slow
async def test_items_of_a_model_that_cannot_be_loaded_end_by_their_deadline_and_say_why(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = tiny("a"), tiny("broken", command=BROKEN)
    live = await gateway_for(quick(), box(tmp_path, *models, rules=QUICK), workers=())
    ids = await queue(
        live,
        new_item(model="broken", deadline=3.0),
        *[new_item(model="a") for _ in range(4)],
    )
    late, *others = await ended(live, ids)
    assert {item.state for item in others} == {COMPLETED}
    assert (late.state, late.attempts) == (ERROR, 0)
    assert late.error is not None
    assert "batch_expired" in late.error
    assert "the model could not be loaded (runtime_crashed)" in late.error


DENIED = "OSError: You are trying to access a gated repo. 403 Forbidden: ask for access"


@pytest.mark.parametrize(
    ("reason", "lasting"),
    [
        ("access_denied", True),
        ("auth_required", True),
        ("model_not_found", True),
        ("model_incompatible", True),
        ("runtime_oom", False),
        ("runtime_crashed", False),
        ("disk_full", False),
    ],
)
async def test_fault_3_12_waiting_is_in_vain_for_models_that_time_does_not_mend(
    gateway_for: GatewayFor, tmp_path: Path, reason: str, lasting: bool
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a")), workers=())
    await until(lambda: fleet_of(live).is_owner)
    await fleet_of(live).memory.failed("a", reason, "why", 86_400.0)
    words = f"the model could not be loaded ({reason})"
    assert live.gateway.workers.load_failures() == {"a": words}
    assert list(live.gateway.workers.unloadable()) == (["a"] if lasting else [])


@pytest.mark.slow
async def test_fault_3_12_items_are_dropped_at_once_only_for_reasons_that_stay(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = tiny("denied", command=["/bin/sh", "-c", f"echo '{DENIED}'; exit 1"]), tiny("broken")
    models[1]["command"] = BROKEN
    live = await gateway_for(quick(), box(tmp_path, *models, rules=QUICK), workers=())
    waiting, *denied = await queue(
        live, new_item(model="broken"), *[new_item(model="denied") for _ in range(3)]
    )
    for item in await ended(live, denied):
        assert (item.state, item.attempts) == (ERROR, 0)
        assert item.error is not None
        assert '"model_load_failed"' in item.error
        assert "the model could not be loaded (access_denied)" in item.error
    assert (await item_of(live, waiting)).state == QUEUED
    assert fleet_of(live).memory.of("broken").failures > 0
    before = starts(tmp_path, "denied")
    [again] = await queue(live, new_item(model="denied"))  # a new submission is another try
    [item] = await ended(live, [again])
    assert (item.state, starts(tmp_path, "denied")) == (ERROR, before + 1)


@pytest.mark.slow
async def test_item_of_a_model_that_nobody_has_ends_with_the_error_of_a_call(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(quick(), box(tmp_path, tiny("a")), workers=())
    [item] = await ended(live, await queue(live, new_item(model="gone")))
    assert item.state == ERROR
    assert "model_not_found" in (item.error or "")


@pytest.mark.slow
async def test_queue_refuses_only_models_that_nobody_can_load(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(quick(), box(tmp_path, tiny("a")), workers=())
    answers = [
        await live.client.post("/v1/batch/chat/completions", json=chat(model=name))
        for name in ("a", "gone")
    ]
    assert [answer.status_code for answer in answers] == [202, 404]
