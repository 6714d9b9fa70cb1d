"""What people may do in the panels of other plugins, and how far their uploads and batches are."""

import asyncio
from pathlib import Path
from typing import Any

from gateway_plugins.evaluations.rows.jobs import Job
from support.batch.batches import created, lines, over
from support.batch.files import client_of
from support.evaluations.repositories import SHIPPED, evaluations
from support.evaluations.repositories import submit as evaluated
from support.gateways.batch_doors import COMPLETIONS, PROMPT
from support.gateways.watched_pages import bearer, keys, login
from support.uploads.asking import PLUGIN, begun, patch

from gateway import Database
from gateway.testing import GatewayFor, Live, entry

Panel = dict[str, Any]


async def panel(live: Live, name: str, **headers: str) -> Panel:
    """Return a panel of the page, with its rows by column."""
    parts = (await live.client.get("/dashboard/parts", headers=headers)).json()
    found: Panel = parts[name]
    found["rows"] = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    return found


async def test_items_are_canceled_and_queued_again_on_the_page(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    fast = entry("dashboard", refresh=0.1)
    live = await gateway_for(keys(tmp_path), "batch", fast, workers=())
    submitted = await live.client.post(COMPLETIONS, json=PROMPT, headers=bearer("nightly"))
    item = submitted.json()["id"]
    shown = await panel(live, "batch.queue", **bearer("boss"))
    [cancel] = shown["actions"]
    assert (cancel["label"], cancel["scope"]) == ("Cancel", "admin")
    [row] = shown["rows"]
    assert row[cancel["column"]] in cancel["values"]
    path = "/dashboard/api" + cancel["path"].replace("{id}", row["id"])
    async with login(live, "watcher") as browser:
        assert (await browser.post(path)).json()["error"]["code"] == "missing_scope"
    async with login(live, "boss") as browser:
        stranger = await browser.post(path, headers={"x-csrf-token": "0"})
        assert stranger.status_code == 403
        assert (await browser.post(path)).json()["status"] == "canceled"
        async with asyncio.timeout(30):
            while not (found := await panel(live, "batch.failed", **bearer("boss")))["rows"]:
                pass
        assert (found["rows"][0]["id"], found["rows"][0]["status"]) == (item, "canceled")
        again = next(one for one in found["actions"] if one["label"] == "Requeue")
        assert found["rows"][0][again["column"]] in again["values"]
        answer = await browser.post("/dashboard/api" + again["path"].replace("{id}", item))
        assert answer.json()["status"] == "queued"


async def test_batches_show_how_far_they_are(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch", entry("dashboard", refresh=0.1))
    async with client_of(live) as client:
        batch = await over(client, await created(client, *lines(3)))
    [row] = (await panel(live, "batch.batches"))["rows"]
    assert (row["id"], row["completed"], row["done_share"]) == (batch.id, 3, 1.0)


async def test_queue_is_shown_by_model_and_key(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await gateway_for(keys(tmp_path), "batch", "dashboard", workers=())
    for name, model in (("nightly", "a"), ("nightly", "a"), ("nightly", "b"), ("other", "a")):
        body = {**PROMPT, "model": model}
        answer = await live.client.post(COMPLETIONS, json=body, headers=bearer(name))
        assert answer.status_code == 202, answer.text
    rows = (await panel(live, "batch.depth", **bearer("watcher")))["rows"]
    assert [(one["model"], one["key"], one["queued"]) for one in rows] == [
        ("a", "nightly", 2),
        ("a", "other", 1),
        ("b", "nightly", 1),
    ]


async def test_uploads_show_their_progress_and_why_they_failed(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    plugin = entry(PLUGIN, cache=str(tmp_path / "cache"), keep_free_gb=0)
    live = await gateway_for(plugin, entry("dashboard", refresh=0.1))
    arriving = await begun(live, 100)
    await patch(live, arriving, 0, b"x" * 25)
    broken = await begun(live, 4, "org/broken")
    await patch(live, broken, 0, b"none")
    failed = (await live.client.get(f"{broken}?wait=30")).json()
    assert failed["status"] == "failed"
    first, second = (await panel(live, "ModelUploads.uploads"))["rows"]
    sizes = [first[name] for name in ("received_bytes", "size_bytes", "progress_share")]
    assert (first["status"], sizes) == ("uploading", [25, 100, 0.25])
    assert (second["status"], second["why"]) == ("failed", failed["error"])


async def test_fault_13_6_the_list_of_evaluations_begins_with_the_newest(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(
        "batch", evaluations(SHIPPED, folder=str(tmp_path)), "dashboard", workers=()
    )
    oldest = await evaluated(live, "example")
    await live.gateway.storage.write(_many_jobs)
    newest = await evaluated(live, "example")
    found = (await live.client.get("/ui/evals")).json()["items"]
    jobs = [newest, *(f"eval_{number:04}" for number in range(1_999, -1, -1)), oldest]
    assert [one["job_id"] for one in found] == jobs[:50]
    assert list(found[0]) == ["job_id", "model", "status", "created_at"]
    many = (await live.client.get("/ui/evals?limit=1000")).json()["items"]
    assert [one["job_id"] for one in many] == jobs[:1_000]
    assert (await live.client.get("/ui/evals?limit=1001")).status_code == 400


def _many_jobs(db: Database) -> None:
    """Copy the only job many times, as ones that have ended, with ids in the order of time."""
    for number in range(2_000):
        named = {"id": f"eval_{number:04}"}
        db.execute(_COPY, named)


_FIELDS = [name for name in Job.__struct_fields__ if name not in ("number", "id")]
_ENDED = ", ".join({"state": "'completed'", "ended": "created"}.get(one, one) for one in _FIELDS)
_COPY = (
    f"INSERT INTO eval_jobs (id, {', '.join(_FIELDS)}) SELECT :id, {_ENDED}"
    " FROM eval_jobs ORDER BY number LIMIT 1"
)
