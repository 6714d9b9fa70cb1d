"""Routes by which operators cancel and requeue what any key has submitted."""

import asyncio
from typing import Any

import pytest
from gateway_plugins.batch.batches import conductor
from gateway_plugins.batch.running import upkeep
from support.batch.batches import created, lines, over, run
from support.batch.files import client_of
from support.gateways.batch_doors import (
    COMPLETIONS,
    JOBS,
    PROMPT,
    Badges,
    badge,
    code,
    holding,
    submit,
)
from support.gateways.batch_doors import over as ended
from support.plugins.recording_plugin import until

from gateway.testing import GatewayFor, Live

ADA, EVE = badge("ada batch"), badge("eve admin")
ITEMS = "/admin/batch/items"
REQUEUE = "/admin/batch/requeue"
WRONG = {**PROMPT, "max_tokens": -1}


async def failed(live: Live, **headers: str) -> str:
    """Return the id of an item that has failed."""
    url = await submit(live, COMPLETIONS, WRONG, **headers)
    assert (await ended(live, url, **headers))["status"] == "error"
    return url.rpartition("/")[2]


async def test_operator_cancels_a_running_item_of_any_key(gateway_for: GatewayFor) -> None:
    async with holding() as (worker, _):
        live = await gateway_for("batch", Badges, workers=[worker.url])
        url = await submit(live, COMPLETIONS, PROMPT, **ADA)
        item = f"{ITEMS}/{url.rpartition('/')[2]}"
        await until(lambda: len(worker.requests) > 0)
        answer = await live.client.post(f"{item}/cancel", headers=EVE)
        assert answer.json()["status"] == "canceled"
        assert (await ended(live, url, **ADA))["status"] == "canceled"
        assert code(await live.client.post(f"{item}/cancel", headers=EVE))[2] == "conflict"
        again = (await live.client.post(f"{item}/requeue", headers=EVE)).json()
        assert (again["status"], again["last_error"]["code"]) == ("queued", "requeued")


async def test_operator_requeues_what_has_failed_or_expired(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LOOK", 0.01)
    live = await gateway_for("batch", workers=())
    answer = await live.client.post(f"{COMPLETIONS}?deadline=0.01", json=PROMPT)
    url = answer.json()["status_url"]
    item = f"{ITEMS}/{answer.json()['id']}/requeue"
    expired = await ended(live, url)
    assert expired["last_error"]["code"] == "batch_expired"
    again = (await live.client.post(item)).json()
    assert (again["status"], again["last_error"]["code"]) == ("queued", "requeued")
    assert again["expires_at"] > expired["finished"] + 3_600
    refused = await live.client.post(item)
    assert (code(refused)[0], "nothing to queue again" in refused.text) == (409, True)


async def test_operator_requeues_all_failed_items_of_a_model_or_key(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch", Badges)
    for name in ("ada", "ada", "bob"):
        await failed(live, **badge(f"{name} batch"))

    async def requeued(**which: str) -> object:
        answer = await live.client.post(REQUEUE, json=which, headers=EVE)
        return answer.json()

    assert await requeued(key="nobody") == {"items": 0}
    assert await requeued(model="other") == {"items": 0}
    assert await requeued(key="bob", model="sim") == {"items": 1}
    assert (await live.client.post(REQUEUE, headers=EVE)).json()["items"] >= 2
    odd = await live.client.post(REQUEUE, json={"models": "a"}, headers=EVE)
    assert code(odd)[0] == 400


async def test_lines_of_batches_stay_as_they_ended(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    async with client_of(live) as client:
        batch = await run(client, *lines(1, max_tokens=-1))
    assert (await live.client.post(REQUEUE)).json() == {"items": 0}
    [one] = (await live.client.get("/v1/batch")).json()["data"]
    answer = await live.client.post(f"{ITEMS}/{one['id']}/requeue")
    assert (answer.status_code, "line of a batch" in answer.text) == (409, True)
    late = await live.client.post(f"/admin/batch/batches/{batch.id}/cancel")
    assert code(late) == (409, None, "conflict")


async def test_operator_cancels_a_batch_and_its_lines(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "LOOK", 60.0)
    live = await gateway_for("batch", workers=())
    async with client_of(live) as client:
        first, second = [await created(client, *lines(1)) for _ in range(2)]
        path = f"/admin/batch/batches/{first.id}/cancel"
        assert (await live.client.post(path)).json()["status"] == "cancelling"
        assert (await over(client, first)).status == "cancelled"
        second = await over(client, second, "in_progress")
        page: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            while not page:
                answer = await live.client.get("/v1/batch?status=queued")
                page = answer.json()["data"]
        await live.client.post(f"{ITEMS}/{page[0]['id']}/cancel")
        assert (await over(client, second)).status == "completed"


@pytest.mark.parametrize("path", [f"{ITEMS}/x/cancel", f"{ITEMS}/x/requeue"])
async def test_unknown_items_are_not_there(gateway_for: GatewayFor, path: str) -> None:
    live = await gateway_for("batch", Badges)
    assert code(await live.client.post(path, headers=EVE))[0] == 404
    assert code(await live.client.post(path, headers=ADA))[2] == "missing_scope"
    assert (await live.client.post(path)).status_code == 401


async def test_jobs_are_items_too(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", workers=())
    url = await submit(live, JOBS, {"model": "sim", "input": "a"})
    item = f"{ITEMS}/{url.rpartition('/')[2]}/cancel"
    assert (await live.client.post(item)).json()["type"] == "job"
